"""Priors: modules whose `forward()` returns a distribution over the latent `z`, or over the class `y`."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn


class StandardNormal(nn.Module):
    """p(z) = N(0, I) over `(M,)`.

    Args:
        latent_dim: M, the dimensions of the latent space.
    """

    zero: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        # A buffer, so that the prior moves to a device with its model; rebuilt, so never saved.
        self.register_buffer("zero", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> TorchDistributionMixin:
        """A distribution with batch shape `()` and event shape `(M,)`."""
        return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)


class Classes(nn.Module):
    """p(y) = Cat(pi) over the classes 0, 1, ..., C - 1.

    Args:
        num_classes: C.
        learned: whether pi is trained; otherwise it stays uniform.
    """

    logits: Tensor

    def __init__(self, num_classes: int, learned: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.logits = nn.Parameter(torch.zeros(num_classes), requires_grad=learned)

    def forward(self) -> TorchDistributionMixin:
        """A distribution with batch shape `()` and event shape `()`."""
        return dist.Categorical(logits=self.logits)
