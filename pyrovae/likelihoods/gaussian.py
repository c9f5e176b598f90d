"""The Gaussian likelihood."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.likelihoods.base import Likelihood
from pyrovae.networks import Standardisation


class Gaussian(Likelihood):
    """p(x | z) = N(network(z), scale^2 I) with one learned scale, for real values.

    With a standardisation, of shift m and scales S = diag(s), it is the density of data in their own units,
    N(m + S network(z), scale^2 S^2), whose network and scale are those of standardised data.

    Args:
        network: maps z to the means of the pixels. It declares its `out_shape`, the event shape of the
            data.
        scale: the standard deviation at the start; with a standardisation, in units of its scales.
        standardisation: the standardisation that the encoder's input shares. None means that the network
            gives the means in the units of the data.

    Raises:
        InputError: when the network has no `out_shape`.

    Examples:
        >>> import torch
        >>> from pyrovae.likelihoods import Gaussian
        >>> from pyrovae.networks import MLP
        >>> likelihood = Gaussian(MLP(2, (1, 8, 8)), scale=0.5)
        >>> likelihood(torch.zeros(5, 2)).log_prob(torch.randn(5, 1, 8, 8)).shape
        torch.Size([5])
    """

    pixels = "real"

    def __init__(
        self, network: nn.Module, scale: float = 1.0, standardisation: Standardisation | None = None
    ) -> None:
        super().__init__(network)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.standardisation = standardisation

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """Return p(x | z), with batch shape `leading` and event shape `x_shape`.

        Args:
            context: z, `(*leading, M)`; in M2 also the class y, `(*leading,)`.
        """
        mean, scale = self.network(*context), self.log_scale.exp()
        if self.standardisation is not None:
            mean, scale = self.standardisation.original(mean), scale * self.standardisation.scale
        return dist.Normal(mean, scale).to_event(len(self.x_shape))

    def output_at_marginals(self, x: Tensor) -> Tensor:
        """Return the mean of each value, `x_shape`, for data `(N, *x_shape)`.

        The scale is set to the standard deviation of the data about these means. Both are those of
        standardised data, if the likelihood has a standardisation.
        """
        if self.standardisation is not None:
            x = self.standardisation(x)
        mean = x.mean(0)
        self.log_scale.copy_((x - mean).square().mean().sqrt().clamp(min=1e-3).log())
        return mean
