"""The ELBO with a floor under the divergence of each latent (free bits)."""

from __future__ import annotations

from typing import Any

from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyrovae.errors import InputError
from pyrovae.objectives.checks import check_enumerable
from pyrovae.objectives.elbo import ELBO
from pyrovae.objectives.objective import Bound
from pyrovae.objectives.terms import Terms
from pyrovae.programs.densities import (
    enumerated_sites,
    enumeration_weights,
    unscaled_log_prob,
    zero_like_densities,
)
from pyrovae.programs.distributions import factors_of, name_of
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

    def evaluate(self, pair: ModelAndGuide, *args: Any, **kwargs: Any) -> Bound:
        """Return the floored bound on a minibatch, in nats, summed over its data."""
        ((model_trace, guide_trace),) = self._get_traces(pair.model, pair.guide, args, kwargs)
        terms = Terms()
        terms.add(model_trace, guide_trace)
        check_gradient_flows(guide_trace, otherwise="use ScoreFunctionELBO")
        if enumerated_sites(guide_trace):
            check_enumerable(guide_trace)
        weights, num_data = enumeration_weights(guide_trace), len(args[0])
        observed = (model_trace.nodes[name]["log_prob"] for name in observed_sites(model_trace))
        zero = zero_like_densities(model_trace)
        loss = -sum(((weights * log_prob).sum() for log_prob in observed), zero)
        terms.kl = zero
        for name in latent_sites(guide_trace):
            kl = self._divergence(name, model_trace, guide_trace, weights)
            terms.kl = terms.kl + kl.detach().sum()
            floored = (kl / num_data).clamp(min=self.nats).sum() * num_data
            loss = loss + _weight_in_both(name, model_trace, guide_trace) * floored
        return Bound(loss, terms.named())

    def _divergence(self, name: str, model_trace: Trace, guide_trace: Trace, weights: Any) -> Tensor:
        """Return KL(q || p) of a site, summed over the batch: `()`, or `event_shape` per dimension."""
        p, q = model_trace.nodes[name], guide_trace.nodes[name]
        fns, event_dim = (p["fn"], q["fn"]), 0
        if self.per == "dimension":
            fns, event_dim = (_factorised(name, p["fn"]), _factorised(name, q["fn"])), q["fn"].event_dim
        kl = None
        if name not in enumerated_sites(guide_trace) and p["mask"] is q["mask"]:
            kl = _closed_form(
                fns, given=_drawn_before(name, model_trace) <= _drawn_before(name, guide_trace)
            )
        if kl is not None:
            kl = scale_and_mask(kl, mask=_before_events(q["mask"], event_dim))
        elif self.per == "site":
            kl = unscaled_log_prob(q) - unscaled_log_prob(p)
        else:
            log_p, log_q = (
                scale_and_mask(fn.log_prob(site["value"]), mask=_before_events(site["mask"], event_dim))
                for fn, site in zip(fns, (p, q), strict=True)
            )
            kl = log_q - log_p
        expected = _before_events(weights, event_dim) * kl
        return expected.sum(tuple(range(expected.dim() - event_dim)))


def _closed_form(fns: tuple[Any, Any], given: bool) -> Tensor | None:
    """Return KL(q || p) of the distributions `(p, q)` in closed form, or None if torch has none.

    The closed form holds p's parameters fixed while z varies. It is the divergence only if the guide has
    already drawn the latents that p's parameters depend on (`given`). In M1+M2 it has not: p(z1 | z2)
    depends on z2, which the guide draws after z1.
    """
    if not given:
        return None
    p, q = fns
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


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
    if not alike and in_model != in_guide:
        raise InputError(
            f"site '{name}' has weight {in_model} in the model and {in_guide} in the guide, but its "
            "divergence needs a single weight: give the site the same weight in both."
        )
    return in_guide
