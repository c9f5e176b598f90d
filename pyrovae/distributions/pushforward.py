"""Distributions of transformed noise, which score their own draws in the pass that makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

import pyrovae.distributions.zuko_import  # noqa: F401 (Zuko gives torch's transforms `call_and_ladj`)
from pyrovae.distributions.scored_draw import ScoredDraw
from pyrovae.errors import InputError


class Pushforward(dist.TorchDistribution):
    """The distribution of z = f_K(... f_1(z_0)) with z_0 ~ base.

    It keeps its most recent draw with its log density. `log_prob` recognises this draw by the identity of
    the tensor. Any other value goes back through the inverses of the transforms.

    Args:
        base: the distribution of z_0, with event shape `(M,)`.
        transforms: f_1, ..., f_K.
        name: the name of the flow, for messages.
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
        self._last: ScoredDraw | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same distribution for each member of a larger batch. The transforms are shared."""
        new = self._get_checked_instance(type(self), _instance)
        new.__dict__.update(vars(self))
        new.base, new._last = self.base.expand(torch.Size(batch_shape)), None
        dist.TorchDistribution.__init__(new, new.base.batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return reparameterised draws, `(*sample_shape, *batch_shape, M)`, and keep their log density."""
        shape = torch.Size(sample_shape)
        z = self.base.rsample(shape) if self.base.has_rsample else self.base.sample(shape)
        log_prob = self.base.log_prob(z)
        for transform in self.transforms:
            z, log_determinant = _value_and_ladj(transform, z)
            log_prob = log_prob - log_determinant
        self._last = ScoredDraw(z, log_prob, torch.is_grad_enabled())
        return z

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return draws, `(*sample_shape, *batch_shape, M)`, and keep their log density."""
        return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of `z`, `(*leading, M)`.

        If `value` is the most recent draw, the very tensor, its log density is known already. For any other
        value it is computed through the inverses. So is the gradient at a point that is held fixed, which
        the score function needs for the draws of `sample`.

        Raises:
            InputError: when the flow has no inverse and `value` is not the most recent draw. For the most
                recent draw of `sample` it is raised when a gradient of the result is computed.
        """
        if self._validate_args:
            self._validate_sample(value)
        last = self._last
        if last is None or not last.is_of(value):
            return self.score_by_inverse(value)
        if last.differentiable or not torch.is_grad_enabled():
            return last.log_prob
        try:
            return self.score_by_inverse(value)
        except InputError as error:
            return _WithoutGradient.apply(last.log_prob, str(error), *self._inputs())

    def score_by_inverse(self, value: Tensor) -> Tensor:
        """Return the log density of any `z`, `(*leading, M)`, through the inverses of the transforms.

        Raises:
            InputError: when the flow has no inverse.
        """
        # Not all of Zuko's transforms broadcast, so z is expanded to the batch first. It is copied since
        # Pyro's transforms recognise their last output and return its input without gradients.
        shape = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        z, change = value.expand(shape + self.event_shape).clone(), value.new_zeros(())
        try:
            for transform in reversed(self.transforms):
                z, log_determinant = _value_and_ladj(transform.inv, z)
                change = change + log_determinant
        except (NotImplementedError, KeyError) as error:  # torch raises the first, Pyro the second
            raise InputError(
                f"the {self._name} flow has no inverse: it scores only its most recent draw, the very "
                "tensor that was returned. For other values, and for the gradient of the score function, "
                "use a flow whose `has_inverse` is true; pyrovae.flows lists them."
            ) from error
        return self.base.log_prob(z) + change

    def _inputs(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name) for name in self.arg_constraints)


def _value_and_ladj(transform: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return f(z) and log |det df / dz|, computed in one pass."""
    pair: tuple[Tensor, Tensor] = transform.call_and_ladj(z)
    return pair


class _WithoutGradient(torch.autograd.Function):
    """A number whose gradient is unknown. The backward pass raises an error; a constant would give 0."""

    @staticmethod
    def forward(ctx: Any, number: Tensor, reason: str, *inputs: Tensor) -> Tensor:
        ctx.reason = reason
        return number.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise InputError(ctx.reason)


class AmortisedFlow(Pushforward):
    """A flow posterior: normal noise pushed through transforms whose parameters depend on the datum.

    Args:
        base: `Normal(loc, scale).to_event(1)`, with batch shape `leading` and event shape `(M,)`.
        flow: a flow of `pyrovae.flows`, which maps the context to transforms.
        context: the context of the flow, `(*leading, context_dim)`.

    Examples:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from pyrovae.distributions import AmortisedFlow
        >>> from pyrovae.flows import Planar
        >>> flow = Planar(latent_dim=2, steps=4)
        >>> base = dist.Normal(torch.zeros(5, 2), 1.0).to_event(1)
        >>> q = AmortisedFlow(base, flow, torch.randn(5, flow.context_dim))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([5])
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
        """Return `loc`, `scale` and `context`, `(*batch_shape, ...)` each."""
        return {
            "loc": self.loc.expand(self.batch_shape + self.loc.shape[-1:]),
            "scale": self.scale.expand(self.batch_shape + self.scale.shape[-1:]),
            "context": self.context.expand(self.batch_shape + self.context.shape[-1:]),
        }

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> AmortisedFlow:
        """Return the same flow with other values of `loc`, `scale` and `context`."""
        base = dist.Normal(parameters["loc"], parameters["scale"]).to_event(1)
        return AmortisedFlow(base, self.flow, parameters["context"])
