"""Which bound is optimised, and how its sites are weighted.

A model is a proper joint: weights such as beta belong to the objective. They are applied to named
sites of model and guide alike, during training only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral
from typing import Any, Protocol

import pyro.poutine as poutine
import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer import Trace_ELBO
from pyro.infer.enum import get_importance_trace
from pyro.infer.trace_elbo import _compute_log_r
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.programs.densities import (
    enumerated_sites,
    enumeration_weights,
    sample_sites,
    trace_log_probs,
    unscaled_log_prob,
    zero_like_densities,
)
from pyrovae.programs.pair import Program
from pyrovae.programs.reparameterisation import check_gradient_flows
from pyrovae.programs.running import latent_sites, observed_sites


class Objective(Protocol):
    """What `fit` minimises: any of Pyro's ELBOs that has a differentiable loss."""

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any: ...


def description(objective: Objective) -> str:
    """Its name and what it was made with, as far as it keeps numbers or words by the names of arguments."""
    names = dict.fromkeys(["num_particles", *inspect.signature(type(objective)).parameters])
    names.pop("max_plate_nesting", None)  # Pyro's objectives find it out for themselves, later
    kept = {name: getattr(objective, name, None) for name in names}
    settings = [f"{name}={value}" for name, value in kept.items() if isinstance(value, int | float | str)]
    return f"{type(objective).__name__}({', '.join(settings)})"


class ELBO(Trace_ELBO):
    """Pyro's `Trace_ELBO`, which also sums out enumerated classes, and keeps its terms.

    A discrete site that the guide marks with `infer={"enumerate": "parallel"}`, such as M2's class, is
    not sampled: both programs run once for all of its values y side by side, and the bound is

        sum_y q(y | x) E_q(z | x, y) [ log p(x, y, z) - log q(y, z | x) ]

    (Kingma et al. 2014, equation 7), the number that `TraceEnum_ELBO` computes. There may be no plate
    but the data's then, and every other latent must be reparameterised.

    `terms` holds the last evaluation's `reconstruction`, E_q[log p(x | z)] over all observed sites, and
    `kl`, E_q[log q(z | x) - log p(z)]; `observed` holds each observed site's part of the first. Each is
    summed over the batch, in nats, without any weight: elbo = reconstruction - kl.

    Args:
        num_particles: draws of the latents for each datum, over which the bound is averaged.
        settings: of `Trace_ELBO`, such as `vectorize_particles`.

    Raises:
        InputError: `num_particles` is no whole number of at least 1; on evaluation, if enumerated sites
            stand beside what is excluded above.
    """

    terms: dict[str, Tensor]
    observed: dict[str, Tensor]

    def __init__(self, num_particles: int = 1, **settings: Any) -> None:
        if not isinstance(num_particles, Integral) or num_particles < 1:
            raise InputError(f"{num_particles!r} draws for each datum: use a whole number, at least 1.")
        super().__init__(num_particles=num_particles, **settings)

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, summed over the batch."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """Minus the bound, summed over the batch, as a tensor; its gradient is the bound's estimate.

        Nothing in it waits for a number, so that it can be traced into a graph.
        """
        total: Any = 0.0
        for traces in self._get_traces(model, guide, args, kwargs):
            loss, surrogate = self._differentiable_loss_particle(*traces)
            total = total + (loss + (surrogate - surrogate.detach())) / self.num_particles
        return total

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Add the loss's gradients to the parameters'; returns the loss. Pyro's `SVI` steps by it."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        inside = 2 if self.vectorize_particles and self.num_particles > 1 else 1
        guide = poutine.enum(guide, first_available_dim=-1 - inside)
        traces: tuple[Trace, Trace] = get_importance_trace("flat", inside, model, guide, args, kwargs)
        return traces

    def _get_traces(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> Iterator[tuple[Trace, Trace]]:
        self.terms, self.observed = {}, {}
        for model_trace, guide_trace in super()._get_traces(model, guide, args, kwargs):
            self._note_terms(model_trace, guide_trace)
            yield model_trace, guide_trace

    @torch.no_grad()
    def _note_terms(self, model_trace: Trace, guide_trace: Trace) -> None:
        weights = enumeration_weights(guide_trace)

        def expected(trace: Trace, name: str) -> Tensor:
            return (weights * unscaled_log_prob(trace.nodes[name])).sum() / self.num_particles

        def add(to: dict[str, Tensor], name: str, term: Any) -> None:
            to[name] = to.get(name, 0.0) + term

        for name in observed_sites(model_trace):
            add(self.observed, name, expected(model_trace, name))
        for name in latent_sites(guide_trace):
            add(self.terms, "kl", expected(guide_trace, name) - expected(model_trace, name))
        zero = zero_like_densities(model_trace)
        self.terms.setdefault("kl", zero)
        self.terms["reconstruction"] = sum(self.observed.values(), zero)

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any]:
        weights = enumeration_weights(guide_trace)
        bound = sum((weights * site["log_prob"]).sum() for site in sample_sites(model_trace))
        bound -= sum((weights * site["log_prob"]).sum() for site in sample_sites(guide_trace))
        if enumerated_sites(guide_trace):
            _check_enumerable(guide_trace, self.num_particles)
        elif not all(_is_reparameterised(guide_trace.nodes[name]) for name in latent_sites(guide_trace)):
            return -bound.detach(), -_surrogate(model_trace, guide_trace)
        return -bound.detach(), -bound


class SupervisedELBO(ELBO):
    """The bound with alpha log q(y | x) added for each datum whose class is given, as M2 is trained
    (Kingma et al. 2014, equation 9, whose alpha counts the mean over labelled data: theirs is
    `alpha = 0.1 * N / labelled` here).

    Args:
        alpha: the weight of a labelled datum's classification term.
        site: the class's name.
        settings: of `Trace_ELBO`.

    Raises:
        InputError: alpha is below 0; on evaluation, the guide has no such site when it is called without.
    """

    def __init__(self, alpha: float, site: str = "y", **settings: Any) -> None:
        super().__init__(**settings)
        if not alpha >= 0:
            raise InputError(f"alpha is {alpha}; it must be at least 0.")
        self.alpha, self.site = alpha, site

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """Minus the bound; for a call `(x, y)` less alpha log q(y | x), summed over the batch."""
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        if len(args) < 2 or args[1] is None:
            return loss
        x, y = args
        # The guide without the class runs as for unlabelled data; conditioning scores the label in it.
        trace = poutine.trace(poutine.condition(guide, data={self.site: y})).get_trace(x)
        if self.site not in trace.nodes:
            raise InputError(
                f"the guide has no site '{self.site}' whose log q({self.site} | x) alpha could weigh: "
                "where the model predicts the class, as a PC-VAE does, weigh that "
                f"(weights={{'{self.site}': lambda_}})."
            )
        log_q = trace_log_probs(trace)[self.site].sum()
        self.observed[f"q({self.site} | x)"] = log_q.detach()
        return loss - self.alpha * log_q


def _is_reparameterised(site: Mapping[str, Any]) -> bool:
    return bool(is_identically_zero(site["score_parts"].score_function))


def _surrogate(model_trace: Trace, guide_trace: Trace) -> Any:
    """What has the bound's gradient where latents are not reparameterised: for those by the score function,
    as in Pyro's `Trace_ELBO`, which however waits for every site's number and so cannot be traced."""
    total = sum(site["log_prob"].sum() for site in sample_sites(model_trace))
    log_ratio = _compute_log_r(model_trace, guide_trace)
    for site in sample_sites(guide_trace):
        _, score_function, entropy = site["score_parts"]
        if not is_identically_zero(entropy):
            total = total - entropy.sum()
        if not is_identically_zero(score_function):
            total = total + (log_ratio.sum_to(site["cond_indep_stack"]) * score_function).sum()
    return total


def _check_enumerable(guide_trace: Trace, num_particles: int) -> None:
    enumerated = enumerated_sites(guide_trace)
    for name in latent_sites(guide_trace):
        site = guide_trace.nodes[name]
        plates = [frame for frame in site["cond_indep_stack"] if frame.name != "num_particles_vectorized"]
        if [frame.dim for frame in plates] != [-1]:
            raise InputError(
                f"site '{name}' is not under one plate at dimension -1, but {enumerated} is enumerated: "
                "use pyro.infer.TraceEnum_ELBO for programs with enumeration and several plates."
            )
    check_gradient_flows(guide_trace)


class _Reweight(Messenger):
    def __init__(self, weights: Mapping[str, float | Tensor]) -> None:
        super().__init__()
        self.weights = weights

    def _pyro_sample(self, msg: Any) -> None:
        # Not poutine.scale, which refuses the weight 0 that every warm-up begins with.
        msg["scale"] = self.weights.get(msg["name"], 1.0) * msg["scale"]


def reweight(program: Program, weights: Mapping[str, float | Tensor]) -> Program:
    """The program with the log densities of the named sites weighted.

    `Trace_ELBO` needs it on model and guide, so that beta weighs log p(z) and log q(z | x) alike.
    """
    if all(not isinstance(weight, Tensor) and weight == 1.0 for weight in weights.values()):
        return program
    return _Reweight(weights)(program)
