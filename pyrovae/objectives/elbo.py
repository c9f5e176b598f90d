"""The evidence lower bound, which also sums out enumerated classes."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer import Trace_ELBO
from pyro.infer.enum import get_importance_trace
from pyro.infer.trace_elbo import _compute_log_r
from pyro.poutine.trace_struct import Trace

from pyrovae.errors import InputError
from pyrovae.objectives.checks import check_enumerable
from pyrovae.objectives.objective import Bound
from pyrovae.objectives.terms import Terms
from pyrovae.programs.densities import enumerated_sites, enumeration_weights, sample_sites
from pyrovae.programs.pair import ModelAndGuide, Pair, Program
from pyrovae.programs.sites import latent_sites


class ELBO(Trace_ELBO):
    """The evidence lower bound: Pyro's `Trace_ELBO`, which also sums out enumerated classes and has terms.

    The guide marks a discrete site, such as M2's class, with `infer={"enumerate": "parallel"}`. Such a site
    is not sampled. Both programs run once, for all of its values y in parallel, and the bound is

        sum_y q(y | x) E_q(z | x, y) [ log p(x, y, z) - log q(y, z | x) ]

    (Kingma et al. 2014, equation 7), the same number as `TraceEnum_ELBO` computes. The data's plate must
    then be the only one, and every other latent must be reparameterised.

    The terms of `evaluate` are `kl`, E_q[log q(z | x) - log p(z)], and `reconstruction`, E_q[log p(x | z)]
    over all observed sites. Each observed site's part of it is a term too, under the site's name.

    A subclass that changes the bound overrides `evaluate`. The other methods call it.

    Args:
        num_particles: the number of draws of the latents for each datum. The bound is averaged over them.
        settings: further settings of `Trace_ELBO`, such as `vectorize_particles`.

    Raises:
        InputError: `num_particles` is not a whole number of at least 1. On evaluation: a site is enumerated
            beside another plate, or beside a latent that is not reparameterised.

    Example:
        >>> import torch
        >>> from pyrovae.models import PPCA
        >>> ppca = PPCA(5, 2)
        >>> bound = ELBO().evaluate(ppca, torch.randn(3, 5))
        >>> sorted(bound.terms)
        ['kl', 'reconstruction', 'x']
    """

    def __init__(self, num_particles: int = 1, **settings: Any) -> None:
        if not isinstance(num_particles, Integral) or num_particles < 1:
            raise InputError(
                f"the number of draws for each datum is {num_particles!r}; it must be a whole number of at "
                "least 1."
            )
        super().__init__(num_particles=num_particles, **settings)

    def __init_subclass__(cls, **settings: Any) -> None:
        """Refuse a subclass whose own `differentiable_loss` training would not call.

        Raises:
            InputError: the subclass overrides `differentiable_loss` without `evaluate`.
        """
        super().__init_subclass__(**settings)
        if "differentiable_loss" in vars(cls) and "evaluate" not in vars(cls):
            raise InputError(
                f"{cls.__name__} overrides differentiable_loss, but training calls evaluate: override "
                "evaluate(pair, *args, **kwargs), which returns a Bound, or derive from Pyro's Trace_ELBO."
            )

    def evaluate(self, pair: ModelAndGuide, *args: Any, **kwargs: Any) -> Bound:
        """Return the bound on a minibatch, in nats, summed over its data.

        The gradient of the loss is an estimate of the gradient of minus the bound. Nothing waits for a
        number on the device, so that the computation can be recorded as a graph.
        """
        total: Any = 0.0
        terms = Terms(self.num_particles)
        for traces in self._get_traces(pair.model, pair.guide, args, kwargs):
            terms.add(*traces)
            loss, surrogate = self._differentiable_loss_particle(*traces)
            total = total + (loss + (surrogate - surrogate.detach())) / self.num_particles
        return Bound(total, terms.named())

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return minus the bound, summed over the batch, as a number."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """Return minus the bound, summed over the batch, as a tensor with a gradient."""
        return self.evaluate(Pair(model, guide), *args, **kwargs).loss

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Add the gradients of the loss to the parameters', and return the loss. Pyro's `SVI` calls it."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return float(loss.item())

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        inside = 2 if self.vectorize_particles and self.num_particles > 1 else 1
        guide = poutine.enum(guide, first_available_dim=-1 - inside)
        traces: tuple[Trace, Trace] = get_importance_trace("flat", inside, model, guide, args, kwargs)
        return traces

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any]:
        weights = enumeration_weights(guide_trace)
        bound = sum((weights * site["log_prob"]).sum() for site in sample_sites(model_trace))
        bound -= sum((weights * site["log_prob"]).sum() for site in sample_sites(guide_trace))
        if enumerated_sites(guide_trace):
            check_enumerable(guide_trace)
        elif not all(_is_reparameterised(guide_trace.nodes[name]) for name in latent_sites(guide_trace)):
            return -bound.detach(), -_surrogate(model_trace, guide_trace)
        return -bound.detach(), -bound


def _is_reparameterised(site: Mapping[str, Any]) -> bool:
    return bool(is_identically_zero(site["score_parts"].score_function))


def _surrogate(model_trace: Trace, guide_trace: Trace) -> Any:
    """Return a number whose gradient is the bound's, also for latents that are not reparameterised.

    Those get the score function's gradient, as in Pyro's `Trace_ELBO`. Pyro's own code waits for the value
    of every site, and so cannot be recorded as a graph.
    """
    total = sum(site["log_prob"].sum() for site in sample_sites(model_trace))
    log_ratio = _compute_log_r(model_trace, guide_trace)
    for site in sample_sites(guide_trace):
        _, score_function, entropy = site["score_parts"]
        if not is_identically_zero(entropy):
            total = total - entropy.sum()
        if not is_identically_zero(score_function):
            total = total + (log_ratio.sum_to(site["cond_indep_stack"]) * score_function).sum()
    return total
