"""The normal prior of weights, with one standard deviation for all of them."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.errors import InputError, check_counts


class IndependentNormal(nn.Module):
    """p(w) = N(0, scale^2 I) over `(P,)`.

    Args:
        size: the number of dimensions P.
        scale: the standard deviation of each, above 0.

    Raises:
        InputError: `size` is below 1, or `scale` is not above 0.

    Examples:
        >>> from pyrovae.priors import IndependentNormal
        >>> IndependentNormal(3, 0.1)().event_shape
        torch.Size([3])
    """

    zero: Tensor

    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        check_counts(size=size)
        if not scale > 0:
            raise InputError(f"scale is {scale}; it must be above 0.")
        self.scale = scale
        self.register_buffer("zero", torch.zeros(size), persistent=False)

    def forward(self) -> TorchDistributionMixin:
        """Return p(w), with batch shape `()` and event shape `(P,)`."""
        return dist.Normal(self.zero, self.scale).to_event(1)
