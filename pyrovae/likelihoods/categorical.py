"""The categorical likelihood."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.errors import InputError
from pyrovae.likelihoods.base import Likelihood


class Categorical(Likelihood):
    """p(x | z) = prod_d Cat(x_d; softmax(logits_d)), for pixels with 256 grey levels.

    The levels are the values 0, 1, ..., 255; `pyrovae.data.to_levels` makes such data.

    Args:
        network: maps z to logits. The first dimension of its `out_shape` is 256 times that of the data:
            `(256 * C, H, W)` for images of shape `(C, H, W)`.

    Raises:
        InputError: when the network has no `out_shape`, or its first dimension is no multiple of 256.

    Examples:
        >>> import torch
        >>> from pyrovae.likelihoods import Categorical
        >>> from pyrovae.networks import MLP
        >>> likelihood = Categorical(MLP(2, (256, 8, 8)))
        >>> likelihood(torch.zeros(5, 2)).log_prob(torch.full((5, 1, 8, 8), 255.0)).shape
        torch.Size([5])
    """

    levels = 256
    pixels = "levels"

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        if not self.x_shape or self.x_shape[0] % self.levels or not self.x_shape[0]:
            needed = (self.levels * (self.x_shape or (1,))[0], *self.x_shape[1:])
            raise InputError(
                f"the {type(network).__name__} of a Categorical likelihood has out_shape {self.x_shape}, "
                f"and it needs {self.levels} outputs for each value of a datum, the logits of its "
                f"{self.levels} levels: for data of this shape, give it out_shape {needed}."
            )
        self.x_shape = (self.x_shape[0] // self.levels, *self.x_shape[1:])

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """Return p(x | z), with batch shape `leading` and event shape `x_shape`.

        Args:
            context: z, `(*leading, M)`; in M2 also the class y, `(*leading,)`.
        """
        return dist.Categorical(logits=self._logits(*context)).to_event(len(self.x_shape))

    def mean(self, *context: Tensor) -> Tensor:
        """Return E[x | z] as an image with grey values in [0, 1], `(*leading, *x_shape)`."""
        logits = self._logits(*context)
        grey = torch.linspace(0, 1, self.levels, device=logits.device, dtype=logits.dtype)
        return logits.softmax(-1) @ grey

    def output_at_marginals(self, x: Tensor) -> Tensor:
        """Return the log frequencies of each pixel's levels, `out_shape`, for data `(N, *x_shape)`."""
        pixels = x[0].numel()
        cells = x.flatten(1).long() + self.levels * torch.arange(pixels, device=x.device)
        counts = cells.flatten().bincount(minlength=self.levels * pixels).unflatten(0, (pixels, -1))
        logits = (counts + 1 / self.levels).log().unflatten(0, self.x_shape)  # so no level is impossible
        return logits.movedim(-1, 1).flatten(0, 1)

    def _logits(self, *context: Tensor) -> Tensor:
        """Return the logits, `(*leading, *x_shape, 256)`."""
        first = -len(self.x_shape)
        return self.network(*context).unflatten(first, (self.x_shape[0], self.levels)).movedim(first, -1)
