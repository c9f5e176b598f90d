"""The importance-weighted bound, with its plain or its doubly reparameterised gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.objectives.doubly_reparameterised import (
    as_leaves,
    path_factors,
    scaled_paths,
    scoring,
    shares_of,
    with_parameters_fixed,
    with_paths,
)
from pyrovae.objectives.elbo import ELBO
from pyrovae.objectives.expectations import Expectation, is_simple
from pyrovae.objectives.layouts import Layout, Layouts
from pyrovae.objectives.objective import Bound
from pyrovae.objectives.packing import readable
from pyrovae.objectives.running import Running, num_data
from pyrovae.objectives.terms import Terms
from pyrovae.programs.accounting import Accounting
from pyrovae.programs.contraction import summed_over_values
from pyrovae.programs.copies import PARTICLES
from pyrovae.programs.densities import (
    enumeration_weights,
    sample_sites,
    unscaled_log_prob,
    value_log_prob,
    with_roles,
    zero_like_densities,
)
from pyrovae.programs.log_weights import joined, per_datum, sum_out
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.reparameterisation import check_gradient_flows
from pyrovae.programs.sites import latent_sites, role_of


class IWAE(ELBO):
    """The importance-weighted bound with K draws for each datum (Burda et al. 2016, equation 8):

        L_K = E[ log 1/K sum_k w_k ],    w_k = p(x, z_k) / q(z_k | x)

    L_1 is the ELBO. Enumerated classes are summed out in each weight, w_k = sum_y p(x, y, z_ky) /
    q(z_ky | x, y). The bound is then on log p(x), and q(y | x) has no part in it: freeze M2's classifier
    (`m2.classifier.requires_grad_(False)`), or train it apart from the bound. Every other latent must be
    reparameterised.

    The plain gradient for the guide becomes noise as K grows (Rainforth et al. 2018). The doubly
    reparameterised gradient (DReG; Tucker et al. 2019, equation 8) has the same mean and less noise. With
    normalised weights v_k = w_k / sum_j w_j, the model's parameters get sum_k v_k d log w_k, and the
    guide's get sum_k v_k^2 (d log w_k / d z_k) (d z_k / d phi), along the path through z alone. DReG runs
    the guide a second time to score the draws, but a flow without an inverse cannot score them. A parameter
    that model and guide share gets both: v_k where the model uses it, as a VampPrior uses the encoder, and
    v_k^2 where the guide uses it. DReG reduces the noise more if the weights vary less, and has no noise
    with an exact guide. With a poor guide, as in the first steps, it can be noisier than the plain
    gradient.

    The terms are those of the ELBO, averaged over the same K draws. Weights of single sites, beta among
    them, do not combine with the bound: they would turn w_k into something else. A weight that all sites
    have in common, such as a plate's N/B, multiplies the whole bound, outside of the logarithm. So does a
    weight for each datum, `poutine.scale(scale=w)` with w `(B,)`: it multiplies that datum's bound.

    Several enumerated sites, nested ones, and those of `pyro.markov` are summed out too, and so is a
    discrete latent of the model that the guide lacks.

    With a drawn latent outside of the data's plate, such as the weights of a regression, all data have one
    weight, and the bound is on log p(x_1, ..., x_N). Each call must then hold all data. A latent that the
    guide sets to a point there, by a `Delta`, is a parameter: its log p is added to the bounds.

    Args:
        num_samples: K, the number of draws for each datum.
        doubly_reparameterised: estimate the guide's gradient by DReG. False means the plain gradient.

    Raises:
        InputError: K is below 1. On evaluation: sites have different weights, as they have in a minibatch
            if a latent is drawn outside of the data's plate; a latent is neither enumerated nor
            reparameterised, or a site cannot be summed out. With DReG also: the guide cannot score a given
            value, or some latents are drawn before an enumerated site and some after it (as in M1+M2
            without labels).
    """

    def __init__(self, num_samples: int, doubly_reparameterised: bool = False) -> None:
        super().__init__(num_particles=num_samples)
        self.doubly_reparameterised = doubly_reparameterised
        self._layouts = Layouts(importance=True, particles=True)

    def evaluate(self, pair: ModelAndGuide, *args: Any, **kwargs: Any) -> Bound:
        """Return the importance-weighted bound on a minibatch, in nats, summed over its data."""
        double = self.doubly_reparameterised and torch.is_grad_enabled()
        paths: dict[str, Tensor] = {}  # the draws, and the factors of their gradients
        factors: dict[str, Tensor] = {}

        def run(layout: Layout) -> tuple[Trace, Trace]:
            running = Running(pair.model, pair.guide, layout, self.num_particles, args, kwargs)
            drawn = running.drawn()
            if double:
                assert layout.sites is not None
                paths.update(scaled_paths(drawn, layout.sites.log_q, factors))
                with scoring():
                    drawn = running.drawn_again(with_paths(drawn, paths))
            return running.replayed(drawn)

        layout, (model_trace, guide_trace) = self._layouts.run(pair, args, kwargs, run)
        number = num_data(args, kwargs)
        _check_weights_exist(model_trace, guide_trace)
        assert layout.sites is not None
        _check_gradients(guide_trace, layout.sites)
        scale = _common_scale(layout, model_trace, guide_trace)
        outer, each = (scale, 1.0) if not _per_datum(scale) else (1.0, scale)
        if double:
            with scoring():
                guide_trace.compute_log_prob()
        model_trace.compute_log_prob()
        guide_trace.compute_log_prob()
        log_q = {name: _log_q(guide_trace, name) for name in layout.sites.log_q}
        fixed, leaves = as_leaves(log_q) if double else (log_q, {})
        bounds = self._bounds(model_trace, guide_trace, layout, fixed, number)
        loss = -(each * bounds).sum()
        if double:
            weighted = shares_of(loss, leaves)
            # The factors of the paths have no weights of data, since the loss has them.
            shares = shares_of(-bounds.sum(), leaves) if _per_datum(scale) else weighted
            loss = loss + with_parameters_fixed(log_q, weighted, paths)
            factors |= path_factors(paths, guide_trace, shares, layout.depth)
        loss = outer * loss - self._log_p_of_points(model_trace, layout.sites)
        training, terms = self._rest(model_trace, guide_trace, layout.sites)
        if double and layout.sites.training_terms:
            _refuse_double(
                guide_trace, f"the guide's site '{layout.sites.training_terms[0]}', a training term,"
            )
        return Bound(loss + training, terms.named())

    def _bounds(
        self,
        model_trace: Trace,
        guide_trace: Trace,
        layout: Layout,
        log_q: Mapping[str, Tensor],
        number: int,
    ) -> Tensor:
        """Return the bound of each datum, `(B,)`, or of all data together, `(1,)`.

        Args:
            model_trace: the trace of the model.
            guide_trace: the trace of the guide.
            layout: the dimensions of their log densities.
            log_q: the log densities of the guide's draws by site.
            number: B, the number of data.
        """
        sites = layout.sites
        assert sites is not None
        if not sites.in_model_alone and is_simple(
            model_trace, guide_trace, {*layout.outside, *sites.parameters}
        ):
            log_weights = _log_weights(model_trace, layout, sites, log_q)
            if not layout.outside:
                return log_weights.flatten(0, -2).logsumexp(0) - math.log(self.num_particles)
            outside = [unscaled_log_prob(model_trace.nodes[n]) for n in sites.log_p if n in layout.outside]
            outside += [-log_q[n] for n in sites.log_q if n in layout.outside]
            log_weights = joined(sum_out(log_weights), outside, layout)
        else:
            kept = {PARTICLES: self.num_particles}
            if not layout.outside:
                assert layout.data is not None
                kept[layout.data[0]] = number

            def density(site: Mapping[str, Any]) -> Tensor:
                if site["name"] in sites.summed_out:
                    return value_log_prob(site)
                of_guide = site is guide_trace.nodes.get(site["name"])
                return log_q[site["name"]] if of_guide else unscaled_log_prob(site)

            with readable(model_trace, guide_trace):
                log_weights = summed_over_values(model_trace, guide_trace, sites, density, kept)
        return log_weights.logsumexp(0) - math.log(self.num_particles)

    def _rest(self, model_trace: Trace, guide_trace: Trace, sites: Accounting) -> tuple[Any, Terms]:
        """Return the training terms of the guide with the sign of a loss, and the terms of the ELBO."""
        terms = Terms(self.num_particles)
        if is_simple(model_trace, guide_trace):
            terms.add(model_trace, guide_trace)
            weights = enumeration_weights(guide_trace)
            weighted = (weights * guide_trace.nodes[name]["log_prob"] for name in sites.training_terms)
            return sum((term.sum() for term in weighted), 0.0) / self.num_particles, terms
        guide_trace.compute_score_parts()
        expectation = Expectation(model_trace, with_roles(guide_trace))
        terms.add_values(expectation.terms(expectation.costs()), model_trace)
        extra = expectation.training(sites.training_terms)
        return -expectation.total(extra) / self.num_particles, terms

    def _log_p_of_points(self, model_trace: Trace, sites: Accounting) -> Tensor:
        """Return the log prior, with its weight, of the latents that are parameters."""
        zero = zero_like_densities(model_trace)
        log_p = sum((model_trace.nodes[name]["log_prob"].sum() for name in sites.parameters), zero)
        return log_p / self.num_particles


def _log_q(guide_trace: Trace, name: str) -> Tensor:
    """Return the log density of a site of the guide. Each of S draws in place of enumeration counts 1/S."""
    site = guide_trace.nodes[name]
    count = site["infer"].get("num_samples")
    return unscaled_log_prob(site) + (0.0 if count is None else math.log(count))


def _log_weights(
    model_trace: Trace, layout: Layout, sites: Accounting, log_q: Mapping[str, Tensor]
) -> Tensor:
    """Return log p(x, z) - log q(z | x) of each datum in a run under particles, `(*values, K, B)`.

    `values` is the dimension of an enumerated site. Its values are summed over, not drawn, so their
    probability q has no part in log q(z | x).
    """
    log_p = {name: unscaled_log_prob(model_trace.nodes[name]) for name in sites.log_p}
    log_p |= {name: value_log_prob(model_trace.nodes[name]) for name in sites.summed_out}
    # Sums in 64-bit stay in 64-bit; sums in 16-bit would be too coarse.
    zero = zero_like_densities(model_trace)
    zero = zero.to(torch.promote_types(zero.dtype, torch.float32))
    of_model, of_guide = (
        sum((per_datum(values[n], layout) for n in names if n not in layout.outside), zero)
        for values, names in ((log_p, sites.log_p), (log_q, sites.log_q))
    )
    return of_model - of_guide


def _check_weights_exist(model_trace: Trace, guide_trace: Trace) -> None:
    if not (latent_sites(model_trace) or latent_sites(guide_trace)):
        raise InputError(
            "the model has no latent site, so there is nothing to integrate out (a deterministic "
            "autoencoder, for example, has no marginal likelihood): use a model with a latent, such as VAE."
        )


def _refuse_double(guide_trace: Trace, what: str) -> NoReturn:
    raise InputError(
        f"the doubly reparameterised gradient does not work with {what} (the guide's sites are "
        f"{', '.join(map(repr, latent_sites(guide_trace)))}): use the plain gradient, IWAE(num_samples)."
    )


def _check_gradients(guide_trace: Trace, sites: Accounting) -> None:
    """Refuse draws that pass no gradient: the bound has no score function for them."""
    check_gradient_flows(guide_trace, otherwise="use ScoreFunctionELBO")
    for name in sites.log_q:
        site = guide_trace.nodes[name]
        several = site["infer"].get("num_samples") is not None or role_of(site) == "factor"
        if several and not site["fn"].has_rsample:
            raise InputError(
                f"the guide's site '{name}' stands for draws that pass no gradient (num_samples, or a "
                "factor with has_rsample=False), and the importance-weighted bound has no other gradient "
                "for them: use the ELBO."
            )


def _per_datum(scale: float | Tensor) -> bool:
    return isinstance(scale, Tensor) and scale.dim() > 0


def _common_scale(layout: Layout, *traces: Trace) -> Any:
    """Return the weight that all sites have in common: a plate's N/B, or one for each datum, `(B,)`."""
    assert layout.sites is not None
    left_out = layout.sites.parameters
    scales = [
        (site["name"], site["scale"])
        for trace in traces
        for site in sample_sites(trace)
        if role_of(site) != "deterministic" and site["name"] not in left_out
    ]
    first = scales[0][1]
    if any(_differ(scale, first) for _, scale in scales):
        if layout.outside:
            raise InputError(
                f"'{layout.outside[0]}' is drawn outside of the data's plate, so all data have one "
                "importance weight, but the sites are weighted differently "
                f"({', '.join(f'{n}: {s}' for n, s in scales)}), as in a minibatch: call the programs with "
                "all data at once, without weights and beta, or use the ELBO."
            )
        raise InputError(
            f"the sites are weighted differently ({', '.join(f'{n}: {s}' for n, s in scales)}), but "
            "importance weights cannot be combined with beta and weights of sites: leave them at 1 (no "
            "beta, no warm-up, no weights), or use the ELBO."
        )
    if not _per_datum(first):
        return first
    if layout.outside:
        raise InputError(
            f"the sites have weights of shape {tuple(first.shape)}, but all data have one importance "
            f"weight, since '{layout.outside[0]}' is drawn outside of the data's plate: leave the weights "
            "out, or use the ELBO."
        )
    full = first.reshape(*[1] * (layout.depth - first.dim()), *first.shape).movedim(layout.data_dim, -1)
    if full.shape[:-1].numel() > 1:
        raise InputError(
            f"the sites have weights of shape {tuple(first.shape)}, which differ within a datum, but a "
            "datum's importance weight has one weight: give each datum one, (B,), or use the ELBO."
        )
    return full.flatten()


def _differ(one: float | Tensor, other: float | Tensor) -> bool:
    if one is other:
        return False
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return not torch.equal(one, other)
    return _per_datum(one) or _per_datum(other) or bool(one != other)
