"""Likelihoods: modules whose `forward(z)` returns a distribution over the data `x`.

A likelihood owns its network (z -> parameters of the pixels). The distribution's event is the whole
image, so `log_prob` has one value for each datum.
"""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.distributions import ContinuousBernoulli as PreciseContinuousBernoulli


class _Likelihood(nn.Module):
    """What every likelihood has: a network whose output shape is the data's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.x_shape: tuple[int, ...] = tuple(network.out_shape)  # type: ignore[arg-type]

    def mean(self, z: Tensor) -> Tensor:
        """E[x | z] as an image with grey values in [0, 1] (a Gaussian's may leave it)."""
        return self(z).mean


class Bernoulli(_Likelihood):
    """p(x | z) = prod_d Bernoulli(x_d; sigmoid(network(z)_d)), for pixels that are 0 or 1."""

    def forward(self, z: Tensor) -> TorchDistributionMixin:
        """For `z` of shape `(*leading, M)`: batch shape `leading`, event shape `x_shape`."""
        logits = self.network(z)
        return dist.Bernoulli(logits=logits).to_event(len(self.x_shape))


class ContinuousBernoulli(_Likelihood):
    """Pixels in [0, 1] with the normalised density of Loaiza-Ganem & Cunningham (2019)."""

    def forward(self, z: Tensor) -> TorchDistributionMixin:
        """For `z` of shape `(*leading, M)`: batch shape `leading`, event shape `x_shape`."""
        logits = self.network(z)
        return PreciseContinuousBernoulli(logits=logits).to_event(len(self.x_shape))


class Gaussian(_Likelihood):
    """p(x | z) = N(network(z), scale^2 I) with one learned scale, for real-valued pixels.

    Args:
        network: z -> mean of x.
        scale: where the learned scale starts.
    """

    def __init__(self, network: nn.Module, scale: float = 1.0) -> None:
        super().__init__(network)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, z: Tensor) -> TorchDistributionMixin:
        """For `z` of shape `(*leading, M)`: batch shape `leading`, event shape `x_shape`."""
        return dist.Normal(self.network(z), self.log_scale.exp()).to_event(len(self.x_shape))


class Categorical(_Likelihood):
    """Each pixel is one of 256 grey levels, the values 0, 1, ..., 255 (`data.to_levels`).

    Args:
        network: z -> logits, whose output shape is the data's with 256 times the first dimension:
            `(256 * C, H, W)` for images of shape `(C, H, W)`.
    """

    levels = 256

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.x_shape = (self.x_shape[0] // self.levels, *self.x_shape[1:])

    def forward(self, z: Tensor) -> TorchDistributionMixin:
        """For `z` of shape `(*leading, M)`: batch shape `leading`, event shape `x_shape`."""
        return dist.Categorical(logits=self._logits(z)).to_event(len(self.x_shape))

    def mean(self, z: Tensor) -> Tensor:
        """E[x | z] as an image with grey values in [0, 1]."""
        grey = torch.linspace(0, 1, self.levels, device=z.device, dtype=z.dtype)
        return self._logits(z).softmax(-1) @ grey

    def _logits(self, z: Tensor) -> Tensor:
        first = -len(self.x_shape)
        return self.network(z).unflatten(first, (self.x_shape[0], self.levels)).movedim(first, -1)
