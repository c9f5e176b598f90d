"""The ELBO with a floor under the divergence of each latent (free bits)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pyro.distributions import Delta, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyrovae.errors import InputError
from pyrovae.objectives.elbo import ELBO
from pyrovae.objectives.expectations import Expectation, is_simple
from pyrovae.objectives.objective import Bound
from pyrovae.objectives.running import num_data
from pyrovae.objectives.terms import Terms
from pyrovae.objectives.weights import count_of
from pyrovae.programs.densities import (
    enumerated_sites,
    enumeration_weights,
    unscaled_log_prob,
    zero_like_densities,
)
from pyrovae.programs.distributions import factors_of, layers_of, name_of
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.reparameterisation import check_gradient_flows
from pyrovae.programs.sites import latent_sites, observed_sites


class FreeBits(ELBO):
    """The ELBO with a floor under the divergence of each latent, or of each of its dimensions j:

        E_B E_q[log p(x | z)] - sum_j max(nats, E_B[KL_j])

    with means over the minibatch (Kingma et al. 2016, section C.8). Below the floor a divergence has no
    gradient, so training has no reason to push it further down.

    KL_j is a closed form if torch has one for the two distributions, and if the guide draws before the site
    all latents that the model draws before it. Otherwise KL_j is log q(z) - log p(z) at the draw.
    Enumerated classes are summed out, as in `ELBO`, and have a floor like any latent.

    With several enumerated sites, or nested ones, KL_j is the expected log q(z) - log p(z) of each site.
    With a weight for each datum, the means are weighted.

    The term `kl` is the divergence without the floor. beta multiplies the floored divergence.

    Args:
        nats: the floor, in nats, at least 0.
        per: "site" for one floor under each site, or "dimension" for one under each dimension of each site.
            The latter needs distributions that are independent over dimensions, in model and guide.

    Raises:
        InputError: `nats` is negative, or `per` is something else. On evaluation: a latent is neither
            enumerated nor reparameterised, it has different weights in the two programs, or each dimension
            has a floor but the latent is not independent over its dimensions.
    """

    def __init__(self, nats: float, per: str = "site") -> None:
        if not nats >= 0:
            raise InputError(f"nats is {nats}; a floor under a divergence must be at least 0.")
        if per not in ("site", "dimension"):
            raise InputError(f"per is '{per}'; expected 'site' or 'dimension'.")
        super().__init__()
        self.nats, self.per = nats, per
        if per == "dimension":
            self._extras = {_BY_DIMENSION: _log_prob_by_dimension}

    def evaluate(self, pair: ModelAndGuide, *args: Any, **kwargs: Any) -> Bound:
        """Return the floored bound on a minibatch, in nats, summed over its data."""
        ((model_trace, guide_trace),) = self._runs(pair, args, kwargs)
        check_gradient_flows(guide_trace, otherwise="use ScoreFunctionELBO")
        _check_divergences(model_trace, guide_trace)
        terms = Terms()
        if is_simple(model_trace, guide_trace):
            terms.add(model_trace, guide_trace)
            loss, divergences = self._direct(model_trace, guide_trace)
        else:
            loss, divergences = self._expected(model_trace, guide_trace, terms)
        number = num_data(args, kwargs)
        terms.kl = zero_like_densities(model_trace)
        for name, divergence in divergences.items():
            count = count_of(guide_trace.nodes[name])
            terms.kl = terms.kl + count * divergence.summed().detach().sum()
            scale = _weight_in_both(name, model_trace, guide_trace)
            frames = guide_trace.nodes[name]["cond_indep_stack"]
            local = any(frame.size == number for frame in frames)
            loss = loss + self._floored(divergence, scale, number if local else 1)
        return Bound(loss, terms.named())

    def _floored(self, divergence: _Divergence, scale: Any, number: int) -> Any:
        """Return the floored divergence of a site, summed over the batch, with its weight.

        A weight for each datum counts in the mean, as if the datum were there that many times.
        """
        if not _per_datum(scale):
            return scale * ((divergence.summed() / number).clamp(min=self.nats).sum() * number)
        count = scale.mean() * number
        mean = divergence.summed(scale) / count.clamp(min=torch.finfo(count.dtype).tiny)
        return count * mean.clamp(min=self.nats).sum()

    def _direct(self, model_trace: Trace, guide_trace: Trace) -> tuple[Any, dict[str, _Divergence]]:
        """Return minus the reconstruction, and the divergence of each latent."""
        weights = enumeration_weights(guide_trace)
        observed = (model_trace.nodes[name]["log_prob"] for name in observed_sites(model_trace))
        zero = zero_like_densities(model_trace)
        reconstruction = sum(((weights * log_prob).sum() for log_prob in observed), zero)
        latents = latent_sites(guide_trace)
        return -reconstruction, {
            name: self._divergence(name, model_trace, guide_trace, weights) for name in latents
        }

    def _expected(
        self, model_trace: Trace, guide_trace: Trace, terms: Terms
    ) -> tuple[Any, dict[str, _Divergence]]:
        """Return the same as `_direct` where several sites are enumerated, and add the terms."""
        expectation = Expectation(model_trace, guide_trace)
        for name in latent_sites(guide_trace):
            scale = guide_trace.nodes[name]["scale"]
            if self.per == "dimension" or name in expectation.entangled or _per_datum(scale):
                raise InputError(
                    f"site '{name}' has no single floor: several or nested sites are enumerated, or only "
                    "in the model, and it needs a floor for each dimension, has a weight for each datum, "
                    "or depends on a site that only the model has. Use FreeBits(nats, per='site') without "
                    "weights for single data, with every latent in the guide, or use the ELBO."
                )
        costs = expectation.costs()
        terms.add_values(expectation.terms(costs), model_trace)
        reconstruction = expectation.total(cost for cost in costs if cost.term != "kl")
        return -reconstruction, {
            name: _Divergence(-expectation.total(expectation.divergence(name), scaled=False), 0)
            for name in latent_sites(guide_trace)
        }

    def _divergence(self, name: str, model_trace: Trace, guide_trace: Trace, weights: Any) -> _Divergence:
        """Return KL(q || p) of a site."""
        p, q = model_trace.nodes[name], guide_trace.nodes[name]
        fns, event_dim = (p["fn"], q["fn"]), 0
        if self.per == "dimension":
            fns, event_dim = (_factorised(name, p["fn"]), _factorised(name, q["fn"])), q["fn"].event_dim
        kl = None
        # Copies that are not run in leading dimensions have distributions of other shapes.
        is_copied = p.get("is_copied") or q.get("is_copied")
        if not is_copied and name not in enumerated_sites(guide_trace) and p["mask"] is q["mask"]:
            kl = _closed_form(
                fns, given=_drawn_before(name, model_trace) <= _drawn_before(name, guide_trace)
            )
        if kl is not None:
            kl = scale_and_mask(kl, mask=_before_events(q["mask"], event_dim))
        elif self.per == "site":
            kl = unscaled_log_prob(q) - unscaled_log_prob(p)
        else:
            log_p, log_q = (
                scale_and_mask(
                    site[_BY_DIMENSION] if is_copied else fn.log_prob(site["value"]),
                    mask=_before_events(site["mask"], event_dim),
                )
                for fn, site in zip(fns, (p, q), strict=True)
            )
            kl = log_q - log_p
        return _Divergence(_before_events(weights, event_dim) * kl, event_dim)


_BY_DIMENSION = "log_prob_by_dimension"


def _log_prob_by_dimension(site: Mapping[str, Any]) -> Tensor | None:
    if site["is_observed"]:
        return None
    log_prob: Tensor = _factorised(site["name"], site["fn"]).log_prob(site["value"])
    return log_prob


class _Divergence(NamedTuple):
    """The divergence of a site: `(*plates, *events)`, to be summed over plates and enumerated values.

    Attributes:
        values: the values, weighted by the probability of enumerated values.
        event_dim: the number of dimensions that are not summed; 0 for one divergence of the whole site.
    """

    values: Tensor
    event_dim: int

    def summed(self, weights: Any = 1.0) -> Tensor:
        """Return the sum, `()` or `event_shape`, with the data weighted."""
        values = _before_events(weights, self.event_dim) * self.values
        summed = tuple(range(values.dim() - self.event_dim))
        return values.sum(summed) if summed else values


def _per_datum(scale: Any) -> bool:
    return isinstance(scale, Tensor) and scale.dim() > 0


def _check_divergences(model_trace: Trace, guide_trace: Trace) -> None:
    in_model = set(latent_sites(model_trace))
    for name in (*latent_sites(guide_trace), *observed_sites(guide_trace)):
        if name not in in_model:
            raise InputError(
                f"the guide has a site '{name}' that is no latent of the model, so the divergence of each "
                "latent is not its own density against the model's, and has no floor: use the ELBO."
            )


def _closed_form(fns: tuple[Any, Any], given: bool) -> Tensor | None:
    """Return KL(q || p) of the distributions `(p, q)` in closed form, or None if torch has none.

    The closed form holds p's parameters fixed while z varies. It is the divergence only if the guide has
    already drawn the latents that p's parameters depend on (`given`). In M1+M2 it has not: p(z1 | z2)
    depends on z2, which the guide draws after z1.
    """
    if not (given and all(map(_has_its_formula, fns))):
        return None
    p, q = fns
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def _has_its_formula(fn: Any) -> bool:
    """Whether the closed form of a distribution's class holds all of its density.

    Pyro's formula for a Delta leaves its log density out, and that for masked distributions is wrong for
    different masks. A subclass of the user's own may have another density than its class.
    """
    layers = list(layers_of(fn))
    if any(isinstance(layer, Delta | MaskedDistribution) for layer in layers):
        return False
    return type(layers[-1]).log_prob.__module__.startswith(("torch.", "pyro.", "pyrovae."))


def _drawn_before(name: str, trace: Trace) -> set[str]:
    latents = latent_sites(trace)
    return set(latents[: latents.index(name)])


def _factorised(name: str, fn: Any) -> Any:
    """Return the univariate factors of a site's distribution, with `event_shape` in the batch shape."""
    factors = factors_of(fn)
    if factors is None:
        raise InputError(
            f"site '{name}' has a {name_of(fn)}, which is not independent over its dimensions, so no "
            "dimension has a divergence of its own: use FreeBits(nats, per='site'), or on the command line "
            "--objective free-bits-total."
        )
    return factors


def _before_events(tensor: Any, event_dim: int) -> Any:
    """Return a mask or weight of data that broadcasts against values with `event_dim` more dimensions."""
    if not isinstance(tensor, Tensor):
        return tensor
    return tensor.reshape((*tensor.shape, *[1] * event_dim))


def _weight_in_both(name: str, *traces: Trace) -> Any:
    in_model, in_guide = (trace.nodes[name]["scale"] for trace in traces)
    # Reading a tensor would wait for the device. Training gives both programs the same tensor.
    alike = isinstance(in_model, Tensor) and isinstance(in_guide, Tensor)
    if not alike and (_per_datum(in_model) or _per_datum(in_guide) or in_model != in_guide):
        raise InputError(
            f"site '{name}' has weight {in_model} in the model and {in_guide} in the guide, but its "
            "divergence needs a single weight: give the site the same weight in both."
        )
    return in_guide
