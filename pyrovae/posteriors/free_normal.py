"""The diagonal normal posterior of a latent that all data share."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.errors import InputError


class FreeNormal(nn.Module):
    """q(w) = N(loc, diag(scale^2)), whose parameters belong to no datum (Blundell et al. 2015).

    Args:
        loc: the means at the start, `(P,)`.
        scale: the standard deviation of each dimension at the start, above 0.

    Raises:
        InputError: `scale` is not above 0.

    Examples:
        >>> import torch
        >>> from pyrovae.posteriors import FreeNormal
        >>> FreeNormal(torch.zeros(3), 0.1)().event_shape
        torch.Size([3])
    """

    def __init__(self, loc: Tensor, scale: float) -> None:
        super().__init__()
        if not scale > 0:
            raise InputError(f"scale is {scale}; it must be above 0.")
        self.loc = nn.Parameter(loc.detach().clone())
        self.log_scale = nn.Parameter(torch.full_like(loc, scale).log())

    def forward(self) -> TorchDistributionMixin:
        """Return q(w), with batch shape `()` and event shape `(P,)`."""
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
