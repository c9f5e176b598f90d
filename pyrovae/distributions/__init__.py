"""Distributions that Pyro lacks, or that it computes too coarsely."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import pyro.distributions as dist
import torch
from pyro.ops.provenance import detach_provenance
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional

import pyrovae.distributions.zuko_import  # noqa: F401 (for `call_and_ladj`)
from pyrovae.errors import InputError

_NEAR_ZERO = 0.1  # logits at which the series below are exact to 64-bit rounding


class ContinuousBernoulli(dist.ContinuousBernoulli):
    """The continuous Bernoulli, computed from its logit t: p(x) = C(t) sigmoid(t)^x sigmoid(-t)^(1-x) with
    C(t) = t / tanh(t/2) (Loaiza-Ganem & Cunningham 2019, equation 7).

    PyTorch computes C from clamped probabilities: in 32-bit it stays put beyond |t| = 16, where trained
    decoders go on black pixels, and the density falls short (by 0.6 nats a pixel at |t| = 30).
    """

    def _cont_bern_log_norm(self) -> Tensor:
        size, near_zero = self._size()
        square = self.logits.square()
        series = math.log(2) + square * (1 / 12 - square * (7 / 1440 - square * 31 / 90720))
        return torch.where(near_zero, series, (size / (size / 2).tanh()).log())

    @property
    def mean(self) -> Tensor:
        """E[x] = 1/2 + 1 / (2 tanh(t/2)) - 1/t."""
        size, near_zero = self._size()
        square = self.logits.square()
        series = self.logits * (1 / 12 - square * (1 / 720 - square / 30240))
        return 0.5 + torch.where(
            near_zero, series, self.logits.sign() * (0.5 / (size / 2).tanh() - 1 / size)
        )

    def icdf(self, value: Tensor) -> Tensor:
        """The x below which there is a mass of `value`: log(1 + value (exp(t) - 1)) / t."""
        size = self.logits.abs().clamp(min=1e-6)
        right = self.logits > 0  # the mirror image of the left, where nothing overflows
        x = -torch.log1p(torch.where(right, 1 - value, value) * torch.expm1(-size)) / size
        return torch.where(right, 1 - x, x)

    def _size(self) -> tuple[Tensor, Tensor]:
        """|t|, replaced near 0 by a number at which nothing is 0/0; and where that is."""
        near_zero = self.logits.abs() < _NEAR_ZERO
        return torch.where(near_zero, torch.ones_like(self.logits), self.logits.abs()), near_zero


class DiagonalNormalMixture(dist.TorchDistribution):
    """A mixture over whole vectors, p(z) = sum_k w_k N(z; loc_k, diag(scale_k^2)).

    Its densities are one matrix product, since log N(z; loc, scale) is linear in (z^2, z):

        log N = sum_m [ -z_m^2 / (2 scale_m^2) + z_m loc_m / scale_m^2 ] + terms without z

    so no tensor of shape `(B, K, M)` is ever made, as `MixtureSameFamily` makes several: with backward at
    B = 100, K = 500 and M = 40 it takes between a sixth and a tenth of the time. The terms are far greater
    than their sum, by (loc / scale)^2: they are computed in 64-bit, about the mean of the components, and
    what is handed back is right to the rounding of the type that came in.

    Args:
        log_weights: log w, `(K,)`; normalised here if they are not.
        loc: `(K, M)`.
        scale: standard deviations, `(K, M)`.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "log_weights": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector
    has_rsample = False  # which component a draw comes from is discrete

    def __init__(
        self, log_weights: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None
    ) -> None:
        self.log_weights, self.loc, self.scale = log_weights, loc, scale
        super().__init__(torch.Size(), loc.shape[-1:], validate_args=validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: DiagonalNormalMixture | None = None
    ) -> DiagonalNormalMixture:
        """The same mixture for each member of a batch."""
        new = self._get_checked_instance(DiagonalNormalMixture, _instance)
        new.log_weights, new.loc, new.scale = self.log_weights, self.loc, self.scale
        dist.TorchDistribution.__init__(new, torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """For `z` of shape `(*leading, M)`: `leading`, or what it and the batch shape broadcast to."""
        if self._validate_args:
            self._validate_sample(value)
        log_w = self.log_weights.double().log_softmax(-1)
        loc, scale = self.loc.double(), self.scale.double()
        centre = loc.detach().mean(0)  # any point will do: the density does not depend on it
        loc, z = loc - centre, value.double() - centre
        precision = scale.square().reciprocal()
        slopes = torch.cat([-0.5 * precision, precision * loc], -1)  # (K, 2 M)
        constants = -(0.5 * precision * loc.square() + scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
        joint = functional.linear(torch.cat([z.square(), z], -1), slopes, constants + log_w)  # (..., K)
        shape = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        return joint.logsumexp(-1).to(value.dtype).expand(shape)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, `(*sample_shape, *batch_shape, M)`."""
        shape = torch.Size(sample_shape) + self.batch_shape
        component = dist.Categorical(logits=self.log_weights).sample(shape)
        loc = self.loc[component]
        return loc + self.scale[component] * torch.randn_like(loc)

    @property
    def mean(self) -> Tensor:
        """sum_k w_k loc_k, `(*batch_shape, M)`."""
        return (self.log_weights.softmax(-1) @ self.loc).expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Each dimension's variance, within components and between them, `(*batch_shape, M)`."""
        weights = self.log_weights.softmax(-1)
        spread = self.scale.square() + (self.loc - weights @ self.loc).square()
        return (weights @ spread).expand(self.batch_shape + self.event_shape)


class FromZuko(dist.TorchDistribution):
    """A distribution of Zuko's over vectors, as one of Pyro's. (Pyro's own wrapper, `ZukoToPyro`, can be
    drawn from within programs only.)

    Args:
        wrapped: what a lazy distribution of Zuko returns, such as `zuko.flows.MAF(features=2)()`.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, wrapped: torch.distributions.Distribution) -> None:
        self.wrapped, self.has_rsample = wrapped, wrapped.has_rsample
        super().__init__(wrapped.batch_shape, wrapped.event_shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> FromZuko:
        """The same distribution for each member of a batch."""
        return FromZuko(self.wrapped.expand(torch.Size(batch_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """For `z` of shape `(*leading, M)`: `leading`, or what it and the batch shape broadcast to."""
        return self.wrapped.log_prob(value)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws that carry gradients, `(*sample_shape, *batch_shape, M)`."""
        return self.wrapped.rsample(torch.Size(sample_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, `(*sample_shape, *batch_shape, M)`."""
        return self.wrapped.sample(torch.Size(sample_shape))


class _Draw(NamedTuple):
    value: Tensor
    log_prob: Tensor
    differentiable: bool  # drawn with gradients


def _found(last: _Draw | None, value: Tensor) -> _Draw | None:
    """The last draw, if that is what `value` is."""
    # Where Pyro tracks what depends on what, it hands back the draw in another wrapping.
    same = last is not None and detach_provenance(value) is detach_provenance(last.value)
    return last if same else None


class MultivariateNormal(dist.MultivariateNormal):
    """The normal with covariance L L^T, which scores what it drew, loc + L e, by its noise e.

    To find e again takes a triangular system. It is solved for any other value, but where L is badly
    conditioned, as in 40 dimensions entries of 2 or 3 make it, the solution is off by orders of
    magnitude and the density with it.
    """

    _last: _Draw | None = None

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws that carry gradients, `(*sample_shape, *batch_shape, M)`; they are scored on the way."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        z = self.loc + (self._unbroadcasted_scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
        scale = self._unbroadcasted_scale_tril.diagonal(dim1=-2, dim2=-1)
        log_prob = -(0.5 * (noise.square() + math.log(2 * math.pi)) + scale.log()).sum(-1)
        self._last = _Draw(z, log_prob, torch.is_grad_enabled())
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """For the last draw, the very tensor that was returned: its density, at no cost. For another `z` of
        shape `(*leading, M)`, or the gradient at a draw that stands still: by a triangular system."""
        last = _found(self._last, value)
        if last is not None and (last.differentiable or not torch.is_grad_enabled()):
            return last.log_prob
        log_prob: Tensor = super().log_prob(value)
        return log_prob


class _Pushforward(dist.TorchDistribution):
    """The distribution of z = f_K(... f_1(z_0)), z_0 ~ base, which scores what it draws in the same pass.

    The density of the last draw is kept with it, and found again by the tensor's identity. Any other value
    goes back through the inverses.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        base: torch.distributions.Distribution,
        transforms: Sequence[torch.distributions.Transform],
        name: str,
        validate_args: bool | None = None,
    ) -> None:
        self.base, self.transforms, self._name = base, transforms, name
        self.has_rsample = base.has_rsample
        self._last: _Draw | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """The same distribution for each member of a larger batch; the transforms are not made anew."""
        new = self._get_checked_instance(type(self), _instance)
        new.__dict__.update(vars(self))
        new.base, new._last = self.base.expand(torch.Size(batch_shape)), None
        dist.TorchDistribution.__init__(new, new.base.batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws that carry gradients, `(*sample_shape, *batch_shape, M)`; they are scored on the way."""
        shape = torch.Size(sample_shape)
        z = self.base.rsample(shape) if self.base.has_rsample else self.base.sample(shape)
        log_prob = self.base.log_prob(z)
        for transform in self.transforms:
            z, log_determinant = _value_and_ladj(transform, z)
            log_prob = log_prob - log_determinant
        self._last = _Draw(z, log_prob, torch.is_grad_enabled())
        return z

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, `(*sample_shape, *batch_shape, M)`; they are scored on the way."""
        return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """For the last draw, the very tensor that was returned: its density, at no cost. For another `z` of
        shape `(*leading, M)`: its density by way of the inverses.

        The gradient at a point that stands still, as the score function needs it for what `sample` drew,
        takes the inverses as well.

        Raises:
            InputError: the flow has no inverse; for the last draw only when its gradient is asked for.
        """
        if self._validate_args:
            self._validate_sample(value)
        last = _found(self._last, value)
        if last is None:
            return self._score(value)
        if last.differentiable or not torch.is_grad_enabled():
            return last.log_prob
        try:
            return self._score(value)
        except InputError as error:
            return _WithoutGradient.apply(last.log_prob, str(error), *self._inputs())

    def _score(self, value: Tensor) -> Tensor:
        # For each member of the batch, since not all of Zuko's transforms broadcast. A copy, since Pyro's
        # recognise what they made last, and hand back without gradients what they made it of.
        shape = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        z, change = value.expand(shape + self.event_shape).clone(), value.new_zeros(())
        try:
            for transform in reversed(self.transforms):
                z, log_determinant = _value_and_ladj(transform.inv, z)
                change = change + log_determinant
        except (NotImplementedError, KeyError) as error:  # torch's and Pyro's ways to say so
            raise InputError(
                f"a {self._name} flow has no inverse: it scores only the draw that it made last, the very "
                "tensor that was returned. For other values, and for the score function's gradient, use a "
                "flow that has one: Householder, InverseAutoregressive, ConvexCombination, SplineCoupling."
            ) from error
        return self.base.log_prob(z) + change

    def _inputs(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name) for name in self.arg_constraints)


def _value_and_ladj(transform: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    pair: tuple[Tensor, Tensor] = transform.call_and_ladj(z)  # which Zuko gives all of torch's transforms
    return pair


class _WithoutGradient(torch.autograd.Function):
    """A number whose gradient is not known, rather than 0."""

    @staticmethod
    def forward(ctx: Any, number: Tensor, reason: str, *inputs: Tensor) -> Tensor:
        ctx.reason = reason
        return number.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise InputError(ctx.reason)


class AmortisedFlow(_Pushforward):
    """A flow posterior: normal noise pushed through transforms whose parameters depend on the datum.

    Args:
        base: `Normal(loc, scale).to_event(1)`, batch shape `(*leading,)` and event shape `(M,)`.
        flow: context -> transforms, first to last (`pyrovae.flows`).
        context: `(*leading, context_dim)`.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
        "context": constraints.real_vector,
    }

    def __init__(
        self, base: dist.Independent, flow: nn.Module, context: Tensor, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = base.base_dist.loc, base.base_dist.scale
        self.flow, self.context = flow, context
        super().__init__(base, flow(context), type(flow).__name__, validate_args)

    def free_parameters(self) -> dict[str, Tensor]:
        """What may be another for each datum: `loc`, `scale` and `context`, `(*batch_shape, ...)` each."""
        return {
            "loc": self.loc.expand(self.batch_shape + self.loc.shape[-1:]),
            "scale": self.scale.expand(self.batch_shape + self.scale.shape[-1:]),
            "context": self.context.expand(self.batch_shape + self.context.shape[-1:]),
        }

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> AmortisedFlow:
        """The same flow with other `loc`, `scale` and `context`."""
        base = dist.Normal(parameters["loc"], parameters["scale"]).to_event(1)
        return AmortisedFlow(base, self.flow, parameters["context"])


class ZukoFlow(_Pushforward):
    """A flow of Zuko for one context, one-pass as `AmortisedFlow` is.

    Args:
        flow: a `zuko.lazy.Flow`.
        context: `(*leading, context_dim)`.
        invert: draw by the flow's transform, noise to z, instead of by its inverse.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"context": constraints.real_vector}

    def __init__(
        self, flow: Any, context: Tensor, invert: bool = False, validate_args: bool | None = None
    ) -> None:
        self.flow, self.context, self.invert = flow, context, invert
        transform = flow.transform(context)
        base = flow.base(context).expand(context.shape[:-1])
        transforms = [transform if invert else transform.inv]
        super().__init__(base, transforms, type(flow).__name__, validate_args)

    def free_parameters(self) -> dict[str, Tensor]:
        """What may be another for each datum: `context`; the base is the same for all."""
        return {"context": self.context.expand(self.batch_shape + self.context.shape[-1:])}

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> ZukoFlow:
        """The same flow with another `context`."""
        return ZukoFlow(self.flow, parameters["context"], self.invert)
