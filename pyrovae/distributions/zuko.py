"""Zuko's distributions as distributions of Pyro."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions.pushforward import Pushforward


class FromZuko(dist.TorchDistribution):
    """A distribution of Zuko over vectors, as a distribution of Pyro.

    Pyro's own wrapper, `ZukoToPyro`, can be sampled only within a program.

    Args:
        wrapped: a distribution, such as `zuko.flows.MAF(features=2)()`.

    Examples:
        >>> import torch
        >>> from pyrovae.distributions import FromZuko
        >>> from pyrovae.distributions.zuko_import import zuko
        >>> p = FromZuko(zuko.flows.MAF(features=2)())
        >>> p.log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, wrapped: torch.distributions.Distribution) -> None:
        self.wrapped, self.has_rsample = wrapped, wrapped.has_rsample
        super().__init__(wrapped.batch_shape, wrapped.event_shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> FromZuko:
        """Return the same distribution for each member of a batch."""
        return FromZuko(self.wrapped.expand(torch.Size(batch_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of `z`, `(*leading, M)`: `leading` broadcast with the batch shape."""
        return self.wrapped.log_prob(value)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return reparameterised draws, `(*sample_shape, *batch_shape, M)`."""
        return self.wrapped.rsample(torch.Size(sample_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return draws, `(*sample_shape, *batch_shape, M)`."""
        return self.wrapped.sample(torch.Size(sample_shape))


class ZukoFlow(Pushforward):
    """A flow of Zuko given a context. Like `AmortisedFlow`, it scores a draw in the pass that makes it.

    Args:
        flow: a `zuko.lazy.Flow`.
        context: the context of the flow, `(*leading, context_dim)`.
        invert: draw by the flow's transform, from noise to z, and not by the inverse of the transform.
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
        """Return `context`, `(*batch_shape, context_dim)`. The base is the same for all data."""
        return {"context": self.context.expand(self.batch_shape + self.context.shape[-1:])}

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> ZukoFlow:
        """Return the same flow with another `context`."""
        return ZukoFlow(self.flow, parameters["context"], self.invert)
