"""Likelihoods: modules whose `forward(z)` returns a distribution over the data `x`.

A likelihood owns its network (z -> parameters of the pixels; in M2 z and the class y, called as
`likelihood(z, y)`). The distribution's event is the whole
image, so `log_prob` has one value for each datum. `start_at_marginals(x)` lets training begin where the
pixels' own frequencies are right, rather than at grey noise: it is faster, and keeps more latents in use.
"""

from __future__ import annotations

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.distributions import ContinuousBernoulli as PreciseContinuousBernoulli
from pyrovae.errors import InputError
from pyrovae.networks import out_shape_of


class _Likelihood(nn.Module):
    """What every likelihood has: a network whose output shape is the data's.

    Attributes:
        pixels: the values of the data that recipes prepare: "grey", "binary" (0 or 1) or "levels" (0 to
            255).
    """

    pixels: ClassVar[str] = "grey"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.x_shape = out_shape_of(network)

    def mean(self, *context: Tensor) -> Tensor:
        """E[x | z] as an image with grey values in [0, 1] (a Gaussian's may leave it)."""
        return self(*context).mean

    @torch.no_grad()
    def start_at_marginals(self, x: Tensor) -> None:
        """Set the network's last bias so that each pixel begins at its distribution over the data
        `(N, *x_shape)`, or one for all pixels of a channel where the network has only one bias for them.

        Raises:
            InputError: the network has no `output_bias`, or the data have another shape.
        """
        if not isinstance(bias := getattr(self.network, "output_bias", None), Tensor):
            raise InputError(
                f"the {type(self.network).__name__} has no tensor `output_bias`, its last layer's bias: "
                "add such a property, or initialise the network yourself."
            )
        if tuple(x.shape[1:]) != self.x_shape:
            raise InputError(f"the data have shape {tuple(x.shape)}; expected (N, *{self.x_shape}).")
        output = self._output_at_marginals(x)
        bias.copy_(output.flatten() if bias.numel() == output.numel() else output.flatten(1).mean(1))

    def _output_at_marginals(self, x: Tensor) -> Tensor:
        """The network's output at which the pixels' distributions are those in the data."""
        raise NotImplementedError


class Bernoulli(_Likelihood):
    """p(x | z) = prod_d Bernoulli(x_d; sigmoid(network(z)_d)), for pixels that are 0 or 1."""

    pixels = "binary"

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """For `z` of shape `(*leading, M)`: batch shape `leading`, event shape `x_shape`."""
        logits = self.network(*context)
        return dist.Bernoulli(logits=logits).to_event(len(self.x_shape))

    def _output_at_marginals(self, x: Tensor) -> Tensor:
        return x.mean(0).logit(eps=1e-3)  # a pixel that is always black need not stay so


class ContinuousBernoulli(_Likelihood):
    """Pixels in [0, 1] with the normalised density of Loaiza-Ganem & Cunningham (2019)."""

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """For `z` of shape `(*leading, M)`: batch shape `leading`, event shape `x_shape`."""
        logits = self.network(*context)
        return PreciseContinuousBernoulli(logits=logits).to_event(len(self.x_shape))

    def _output_at_marginals(self, x: Tensor) -> Tensor:
        mean = x.mean(0).clamp(0.01, 0.99)
        low, high = torch.full_like(mean, -200.0), torch.full_like(mean, 200.0)
        for _ in range(40):  # the mean's inverse has no closed form: bisection
            middle = (low + high) / 2
            below = PreciseContinuousBernoulli(logits=middle).mean < mean
            low, high = middle.where(below, low), high.where(below, middle)
        return (low + high) / 2


class Gaussian(_Likelihood):
    """p(x | z) = N(network(z), scale^2 I) with one learned scale, for real-valued pixels.

    Args:
        network: z -> mean of x.
        scale: where the learned scale starts.
    """

    def __init__(self, network: nn.Module, scale: float = 1.0) -> None:
        super().__init__(network)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """For `z` of shape `(*leading, M)`: batch shape `leading`, event shape `x_shape`."""
        return dist.Normal(self.network(*context), self.log_scale.exp()).to_event(len(self.x_shape))

    def _output_at_marginals(self, x: Tensor) -> Tensor:
        mean = x.mean(0)
        self.log_scale.copy_((x - mean).square().mean().sqrt().clamp(min=1e-3).log())
        return mean


class Categorical(_Likelihood):
    """Each pixel is one of 256 grey levels, the values 0, 1, ..., 255 (`data.to_levels`).

    Args:
        network: z -> logits, whose output shape is the data's with 256 times the first dimension:
            `(256 * C, H, W)` for images of shape `(C, H, W)`.
    """

    levels = 256
    pixels = "levels"

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.x_shape = (self.x_shape[0] // self.levels, *self.x_shape[1:])

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """For `z` of shape `(*leading, M)`: batch shape `leading`, event shape `x_shape`."""
        return dist.Categorical(logits=self._logits(*context)).to_event(len(self.x_shape))

    def mean(self, *context: Tensor) -> Tensor:
        """E[x | z] as an image with grey values in [0, 1]."""
        logits = self._logits(*context)
        grey = torch.linspace(0, 1, self.levels, device=logits.device, dtype=logits.dtype)
        return logits.softmax(-1) @ grey

    def _output_at_marginals(self, x: Tensor) -> Tensor:
        pixels = x[0].numel()
        cells = x.flatten(1).long() + self.levels * torch.arange(pixels, device=x.device)
        counts = cells.flatten().bincount(minlength=self.levels * pixels).unflatten(0, (pixels, -1))
        logits = (counts + 1 / self.levels).log().unflatten(0, self.x_shape)  # no level is impossible
        return logits.movedim(-1, 1).flatten(0, 1)

    def _logits(self, *context: Tensor) -> Tensor:
        first = -len(self.x_shape)
        return self.network(*context).unflatten(first, (self.x_shape[0], self.levels)).movedim(first, -1)
