"""Other bounds than the ELBO, and other estimators of its gradient. Each is an objective for `fit`, for
Pyro's `SVI` and for `evaluation.gradients`, and runs any model/guide pair.

    IWAE                the importance-weighted bound, with its plain or doubly reparameterised gradient
    ScoreFunctionELBO   the ELBO with gradients that need no reparameterisation
    FreeBits            the ELBO with a floor under the divergence
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyrovae.compute.devices import seeded
from pyrovae.errors import InputError
from pyrovae.objectives.doubly_reparameterised import (
    check_scores,
    path_factors,
    scaled_paths,
    shares_of,
    with_parameters_fixed,
    with_values,
)
from pyrovae.objectives.elbo import ELBO, _check_enumerable
from pyrovae.programs.densities import (
    enumerated_sites,
    enumeration_weights,
    unscaled_log_prob,
    zero_like_densities,
)
from pyrovae.programs.devices import device_of
from pyrovae.programs.distributions import factors_of, name_of
from pyrovae.programs.log_weights import Layout, enumerated, layout_of, log_densities, particle_plate
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import Pair, Program
from pyrovae.programs.reparameterisation import check_gradient_flows
from pyrovae.programs.running import latent_sites, observed_sites, run_pair


class IWAE(ELBO):
    """The importance-weighted bound (Burda et al. 2016, equation 8), K draws for each datum:

        L_K = E[ log 1/K sum_k w_k ],    w_k = p(x, z_k) / q(z_k | x)

    L_1 is the ELBO. Enumerated classes are summed out in each weight, w_k = sum_y p(x, y, z_ky) /
    q(z_ky | x, y), so that the bound is on log p(x) and q(y | x) has no part in it: freeze M2's classifier
    (`m2.classifier.requires_grad_(False)`), or train it apart from the bound. Every other latent must be
    reparameterised.

    The plain gradient for the guide drowns in noise as K grows (Rainforth et al. 2018). The doubly
    reparameterised one (DReG; Tucker et al. 2019, equation 8) has the same mean without that: with
    normalised weights v_k = w_k / sum_j w_j, the model's parameters get sum_k v_k d log w_k, and the
    guide's sum_k v_k^2 (d log w_k / d z_k) (d z_k / d phi), along the path through z alone. It runs the
    guide a second time, to score the draws, which a flow without an inverse cannot. A parameter that
    model and guide share gets both: where a VampPrior calls the encoder that is a use by the model, with
    v_k, and where the guide calls it the path's v_k^2. The less the weights vary the more DReG saves, and
    nothing is left with an exact guide; far from that, in the first steps say, it can be the noisier one.

    `terms` and `observed` are those of the ELBO, averaged over the same K draws. Weights of sites, beta
    among them, do not combine with the bound: they would turn the weights w_k into something else. A
    weight that all sites have in common, such as a plate's N/B, multiplies the whole bound.

    Args:
        num_samples: K.
        doubly_reparameterised: estimate the guide's gradient by DReG.

    Raises:
        InputError: K is below 1; on evaluation: sites are weighted differently, a latent is neither
            enumerated nor reparameterised, or what `log_weights.layout_of` raises. With DReG also: a
            guide that cannot score what it did not draw in that run, or latents of which some are drawn
            before an enumerated site and some after it (as in M1+M2 without labels).
    """

    def __init__(self, num_samples: int, doubly_reparameterised: bool = False) -> None:
        super().__init__(num_particles=num_samples)
        self.doubly_reparameterised = doubly_reparameterised
        self._layouts: dict[Any, Layout] = {}

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, summed over the batch, in nats."""
        layout = self._layout(model, guide, args, kwargs)
        if kwargs:
            model, guide = functools.partial(model, **kwargs), functools.partial(guide, **kwargs)
        drawing = enumerated(guide, layout)
        double = self.doubly_reparameterised and torch.is_grad_enabled()
        paths: dict[str, Tensor] = {}  # the draws, and by what the gradient is multiplied on its way back
        factors: dict[str, Tensor] = {}
        with particle_plate(self.num_particles, layout):
            if double:
                drawn = poutine.trace(drawing).get_trace(*args)
                paths = scaled_paths(drawn, factors)
                drawing = poutine.replay(guide, trace=with_values(drawn, paths))
            model_trace, guide_trace = run_pair(Pair(model, drawing), *args)
        check_gradient_flows(guide_trace, otherwise="use ScoreFunctionELBO")
        scale = _common_scale(model_trace, guide_trace)
        if double:
            check_scores(guide_trace)
        log_p, log_q = log_densities(model_trace, guide_trace, args[0], layout)
        self.terms, self.observed = {}, {}
        self._note_terms(model_trace, guide_trace)
        log_weights = log_p - (log_q.detach() if double else log_q)
        bound = log_weights.flatten(0, -2).logsumexp(0) - math.log(self.num_particles)
        loss = -bound.sum()
        if double:
            shares = shares_of(log_weights.detach())
            loss = loss + with_parameters_fixed(shares * log_q, paths)
            factors |= path_factors(paths, guide_trace, shares, layout)
        return scale * loss

    def _layout(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Layout:
        """The dimensions that the programs' plates take, found once for each pair and kind of call."""
        absent = tuple(name for name, value in (*enumerate(args), *kwargs.items()) if value is None)
        key = (model, guide, len(args), *kwargs, absent)
        if key not in self._layouts:
            if len(self._layouts) > 8:  # programs that are made anew for each call
                self._layouts.clear()
            device = device_of(model, guide, otherwise=args[0].device)
            called = functools.partial(model, **kwargs), functools.partial(guide, **kwargs)
            with torch.no_grad(), evaluating(model, guide), seeded(0, device):
                self._layouts[key] = layout_of(Pair(*called), args)
        return self._layouts[key]


def _common_scale(*traces: Trace) -> Any:
    """The weight that every site has, a plate's N/B say."""
    nodes = (node for trace in traces for node in trace.nodes.items())
    scales = [(name, site["scale"]) for name, site in nodes if site["type"] == "sample"]
    first = scales[0][1]
    if any(scale is not first and scale != first for _, scale in scales):
        raise InputError(
            f"the sites are weighted differently ({', '.join(f'{n}: {s}' for n, s in scales)}), but "
            "importance weights are ratios of densities, into which beta and weights of sites cannot "
            "enter: leave them at 1 (no beta, no warm-up, no weights), or use the ELBO."
        )
    return first


# The score function

_ONE = torch.Size()


class _Unreparameterised(TorchDistribution):
    """A distribution as if it could not be reparameterised."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, base_dist: Any) -> None:
        self.base_dist = base_dist
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base_dist.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Unreparameterised:
        return _Unreparameterised(self.base_dist.expand(batch_shape))

    def sample(self, sample_shape: Any = _ONE) -> Tensor:
        with torch.no_grad():
            # A copy: flows recognise their own draw, and score it by what they kept of drawing it, which
            # as a function of the parameters is the density at a moving point rather than at this one.
            return self.base_dist(sample_shape).clone()

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base_dist.log_prob(value)


class _WithoutReparameterisation(Messenger):
    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or poutine.util.site_is_subsample(msg):
            return
        if msg["fn"].has_rsample:
            msg["fn"] = _Unreparameterised(msg["fn"])


class ScoreFunctionELBO(ELBO):
    """The ELBO, whose gradient is estimated by the score function (REINFORCE; Williams 1992; Ranganath et
    al. 2014), for every latent of the guide:

        d/dphi E_q[f] = E_q[ f d log q(z | x) / dphi ],    f = log p(x, z) - log q(z | x)

    It asks nothing of model and guide but densities, so that discrete latents may be drawn; but it sees f
    only as a number, not where it rises, and is the noisier the more latents there are. f is the datum's
    own (its plate says what is independent), and there is no baseline. Beside `objectives.ELBO` it shows
    what reparameterisation is worth (`evaluation.gradients`). `terms` are those of the ELBO.

    Args:
        settings: of `Trace_ELBO`, such as `num_particles`.

    Raises:
        InputError: on evaluation, where a site is enumerated, or the guide cannot score a value as one
            that is given (a flow without an inverse).
    """

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        unreparameterised: Program = _WithoutReparameterisation()(guide)
        try:
            traces = super()._get_trace(model, unreparameterised, args, kwargs)
        except ValueError as error:
            if isinstance(error.__cause__, InputError):  # Pyro makes it a ValueError on the way
                raise InputError(str(error.__cause__)) from error
            raise
        if summed_out := enumerated_sites(traces[1]):
            raise InputError(
                f"{summed_out} is enumerated, with which the score function does not combine: take "
                "infer={'enumerate': 'parallel'} off the guide's site, so that it is drawn."
            )
        return traces


# Free bits


class FreeBits(ELBO):
    """The ELBO with a floor under the divergence of each latent, or of each of its dimensions j (Kingma et
    al. 2016, section C.8), so that training has no reason to push one below it:

        E_B E_q[log p(x | z)] - sum_j max(nats, E_B[KL_j])

    with means over the minibatch. KL_j is torch's closed form where there is one for the two distributions
    and the guide has drawn by then all that the model draws before, so that it is the divergence given
    those; otherwise log q(z) - log p(z) at the draw. Enumerated classes are summed out, as by `ELBO`, and
    have a floor like any latent. Below it a divergence has no gradient.

    `terms` hold the divergence itself, not the floor. beta multiplies the floored divergence.

    Args:
        nats: the floor.
        per: "site", or "dimension" of each site; that needs distributions that are independent over
            dimensions, in model and guide.

    Raises:
        InputError: a negative floor, or another `per`; on evaluation: a latent is neither enumerated nor
            reparameterised, has a weight in one of the programs only, or is not independent over its
            dimensions where they are told apart.
    """

    def __init__(self, nats: float, per: str = "site") -> None:
        if not nats >= 0:
            raise InputError(f"nats is {nats}; a floor under a divergence is at least 0.")
        if per not in ("site", "dimension"):
            raise InputError(f"per is '{per}'; expected 'site' or 'dimension'.")
        super().__init__()
        self.nats, self.per = nats, per

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, summed over the batch, in nats."""
        ((model_trace, guide_trace),) = self._get_traces(model, guide, args, kwargs)
        check_gradient_flows(guide_trace, otherwise="use ScoreFunctionELBO")
        if enumerated_sites(guide_trace):
            _check_enumerable(guide_trace, 1)
        weights, num_data = enumeration_weights(guide_trace), len(args[0])
        observed = (model_trace.nodes[name]["log_prob"] for name in observed_sites(model_trace))
        zero = zero_like_densities(model_trace)
        loss = -sum(((weights * log_prob).sum() for log_prob in observed), zero)
        self.terms["kl"] = zero
        for name in latent_sites(guide_trace):
            kl = self._divergence(name, model_trace, guide_trace, weights)
            self.terms["kl"] = self.terms["kl"] + kl.detach().sum()
            floored = (kl / num_data).clamp(min=self.nats).sum() * num_data
            loss = loss + _weight_in_both(name, model_trace, guide_trace) * floored
        return loss

    def _divergence(self, name: str, model_trace: Trace, guide_trace: Trace, weights: Any) -> Tensor:
        """KL(q || p) of a site, summed over the batch: `()`, or `event_shape` per dimension."""
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
    """KL(q || p) of the distributions `(p, q)` where torch knows it.

    It holds p's parameters fixed while z varies, and so stands for the divergence only if q has settled
    what they depend on: in M1+M2 the guide draws z1 first, on which the z2 behind p(z1 | z2) then depends.
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
    """The univariate distributions that a site's is the product of, `event_shape` in its batch shape."""
    factors = factors_of(fn)
    if factors is None:
        raise InputError(
            f"site '{name}' has a {name_of(fn)}, which is not independent over its dimensions, so "
            "that none has a divergence of its own: use FreeBits(nats, per='site'), or on the command line "
            "--objective free-bits-total."
        )
    return factors


def _before_events(tensor: Any, event_dim: int) -> Any:
    """A mask or weight of data, made to stand beside values with `event_dim` dimensions more."""
    if not isinstance(tensor, Tensor):
        return tensor
    return tensor.reshape((*tensor.shape, *[1] * event_dim))


def _weight_in_both(name: str, *traces: Trace) -> Any:
    in_model, in_guide = (trace.nodes[name]["scale"] for trace in traces)
    # To look at a tensor would be to wait for it, and training weighs both programs by the same one.
    alike = isinstance(in_model, Tensor) and isinstance(in_guide, Tensor)
    if not alike and in_model != in_guide:
        raise InputError(
            f"site '{name}' has weight {in_model} in the model and {in_guide} in the guide, so that its "
            "divergence has none: weigh it alike in both."
        )
    return in_guide
