"""The standard normal prior."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.errors import check_counts


class StandardNormal(nn.Module):
    """p(z) = N(0, I) over `(M,)`.

    Args:
        latent_dim: the number of latent dimensions M.

    Raises:
        InputError: when `latent_dim` is below 1.

    Examples:
        >>> from pyrovae.priors import StandardNormal
        >>> StandardNormal(2)().event_shape
        torch.Size([2])
    """

    zero: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        check_counts(latent_dim=latent_dim)
        self.latent_dim = latent_dim
        # A buffer moves to a device with its model. It is not saved, as it is always the same.
        self.register_buffer("zero", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> TorchDistributionMixin:
        """Return p(z), with batch shape `()` and event shape `(M,)`."""
        return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)
