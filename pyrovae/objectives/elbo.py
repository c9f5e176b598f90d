"""The evidence lower bound, which also sums out enumerated classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Integral
from types import MappingProxyType
from typing import Any

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer import Trace_ELBO
from pyro.infer.util import MultiFrameTensor
from pyro.poutine.trace_struct import Trace

from pyrovae.errors import InputError
from pyrovae.objectives.expectations import Expectation, is_simple
from pyrovae.objectives.layouts import Layout, Layouts
from pyrovae.objectives.objective import Bound
from pyrovae.objectives.running import Running
from pyrovae.objectives.terms import Terms
from pyrovae.programs.copies import Extra
from pyrovae.programs.densities import enumerated_sites, enumeration_weights, sample_sites, with_roles
from pyrovae.programs.pair import ModelAndGuide, Pair, Program
from pyrovae.programs.reparameterisation import check_gradient_flows


class ELBO(Trace_ELBO):
    """The evidence lower bound: Pyro's `Trace_ELBO`, which also sums out enumerated classes and has terms.

    The guide marks a discrete site, such as M2's class, with `infer={"enumerate": "parallel"}`. Such a site
    is not sampled. Both programs run once, for all of its values y in parallel, and the bound is

        sum_y q(y | x) E_q(z | x, y) [ log p(x, y, z) - log q(y, z | x) ]

    (Kingma et al. 2014, equation 7), the same number as `TraceEnum_ELBO` computes. Several enumerated
    sites, nested ones, those that depend on each other and those of `pyro.markov` are summed over by Pyro's
    own algorithms. Every other latent must then be reparameterised.

    A latent of the model that the guide lacks is left out if nothing depends on it, since its density
    integrates to 1. If it has finitely many values, it is summed out: log p(x, z) = log sum_y p(x, y, z).

    A site that only the guide has counts too. An auxiliary draw, and a factor with the density of a latent
    that a `Delta` sets, belong to log q. Any other factor, such as a classification loss, and an observed
    site are terms of training. As in Pyro's `Trace_ELBO`, their log density is subtracted. They have the
    plain gradient of that number.

    The terms of `evaluate` are `kl`, E_q[log q(z | x) - log p(z)] with all sites of the guide in log q, and
    `reconstruction`, E_q[log p(x | z)] over all observed sites. Each observed site's part of it is a term
    too, under the site's name. Sites that depend on a latent that is summed out in the model have one term
    together, under their names joined by commas.

    Networks that take `(B, ...)` alone, without leading dimensions for particles or classes, run on rows or
    copy by copy. In training mode, batch normalisation sees the rows that run together, and dropout drops
    independently in each. Sites enumerated together need networks that take leading dimensions.

    A subclass that changes the bound overrides `evaluate`. The other methods call it.

    Args:
        num_particles: the number of draws of the latents for each datum. The bound is averaged over them.
        settings: further settings of `Trace_ELBO`, such as `vectorize_particles`.

    Raises:
        InputError: `num_particles` is not a whole number of at least 1. On evaluation: a site is enumerated
            beside a latent that is not reparameterised, or cannot be summed over; data depend on a latent
            that the guide lacks and that has infinitely many values; sites that depend on a latent of the
            model alone have different weights; or the guide has a site of its own that is not marked as
            auxiliary.

    Example:
        >>> import torch
        >>> from pyrovae.models import PPCA
        >>> ppca = PPCA(5, 2)
        >>> bound = ELBO().evaluate(ppca, torch.randn(3, 5))
        >>> sorted(bound.terms)
        ['kl', 'reconstruction', 'x']
    """

    _extras: Mapping[str, Extra] = MappingProxyType({})  # tensors of latents, as in `run_copies`

    def __init__(self, num_particles: int = 1, **settings: Any) -> None:
        if not isinstance(num_particles, Integral) or num_particles < 1:
            raise InputError(
                f"the number of draws for each datum is {num_particles!r}; it must be a whole number of at "
                "least 1."
            )
        super().__init__(num_particles=num_particles, **settings)
        self._layouts: Layouts = Layouts(particles=self.vectorize_particles and self.num_particles > 1)

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
        for model_trace, guide_trace in self._runs(pair, args, kwargs):
            if is_simple(model_trace, guide_trace):
                terms.add(model_trace, guide_trace)
                loss, surrogate = self._differentiable_loss_particle(model_trace, guide_trace)
                total = total + (loss + (surrogate - surrogate.detach())) / self.num_particles
            else:
                expectation = Expectation(model_trace, guide_trace)
                costs = expectation.costs()
                terms.add_values(expectation.terms(costs), model_trace)
                total = total - expectation.total(costs) / self.num_particles
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

    def _runs(self, pair: ModelAndGuide, args: Any, kwargs: Any) -> Iterator[tuple[Trace, Trace]]:
        """Yield the traces of model and guide of each run. One run may hold all particles."""

        def run(layout: Layout) -> tuple[Trace, Trace]:
            running = Running(pair.model, self._drawing(pair.guide), layout, particles, args, kwargs)
            model_trace, guide_trace = running.traces_with_scores(self._extras)
            return model_trace, with_roles(guide_trace)

        particles = self.num_particles if self._layouts.particles else None
        for _ in range(1 if self._layouts.particles else self.num_particles):
            _, traces = self._layouts.run(pair, args, kwargs, run)
            yield traces

    def look_again(self) -> bool:
        """Find the ways to run particles and enumerated values again, when the objective is next evaluated.

        A layer that starts at zero hides what it does with leading dimensions. So `fit` calls this after
        the first epoch.

        Returns:
            Whether there are such ways.
        """
        return self._layouts.forget_ways()

    def _drawing(self, guide: Program) -> Program:
        """Return the guide as it draws for this objective."""
        return guide

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, Any]:
        weights = enumeration_weights(guide_trace)
        bound = sum((weights * site["log_prob"]).sum() for site in sample_sites(model_trace))
        bound -= sum((weights * site["log_prob"]).sum() for site in sample_sites(guide_trace))
        if enumerated_sites(guide_trace):
            check_gradient_flows(guide_trace)
        elif not all(map(_is_differentiable, sample_sites(guide_trace))):
            return -bound.detach(), -_surrogate(model_trace, guide_trace)
        return -bound.detach(), -bound


def _is_differentiable(site: Mapping[str, Any]) -> bool:
    return bool(is_identically_zero(site["score_parts"].score_function))


def _surrogate(model_trace: Trace, guide_trace: Trace) -> Any:
    """Return a number whose gradient is the bound's, also for latents that are not reparameterised.

    Those get the score function's gradient, as in Pyro's `Trace_ELBO`. Pyro's own code waits for the value
    of every site, and so cannot be recorded as a graph. It also leaves the densities of sites that only the
    guide has out of the score function's factor.
    """
    total = sum(site["log_prob"].sum() for site in sample_sites(model_trace))
    log_ratio = _log_ratio(model_trace, guide_trace)
    for site in sample_sites(guide_trace):
        _, score_function, entropy = site["score_parts"]
        if not is_identically_zero(entropy):
            total = total - entropy.sum()
        if not is_identically_zero(score_function):
            total = total + (log_ratio.sum_to(site["cond_indep_stack"]) * score_function).sum()
    return total


def _log_ratio(model_trace: Trace, guide_trace: Trace) -> MultiFrameTensor:
    """Return log p - log q with its plates, without gradients."""
    log_ratio = MultiFrameTensor()
    in_both = set()
    for site in sample_sites(model_trace):
        term = site["log_prob"]
        if not site["is_observed"]:
            in_both.add(site["name"])
            term = term - guide_trace.nodes[site["name"]]["log_prob"]
        log_ratio.add((site["cond_indep_stack"], term.detach()))
    for site in sample_sites(guide_trace):
        if site["name"] not in in_both:
            log_ratio.add((site["cond_indep_stack"], -site["log_prob"].detach()))
    return log_ratio
