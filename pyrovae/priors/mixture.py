"""The mixture of Gaussians as a prior."""

from __future__ import annotations

import math

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import nn

from pyrovae.distributions import DiagonalNormalMixture
from pyrovae.errors import check_counts


class MixtureOfGaussians(nn.Module):
    """p(z) = sum_k w_k N(z; loc_k, diag(scale_k^2)). Weights, means and scales are learned.

    At the start the mixture has covariance I, where the standard normal is and where most encoders begin.
    The means are so far apart that the divergence between two components is 4 nats on average, whatever M
    is. If they were nearer, all components would move as one. If they were drawn from N(0, I) in 40
    dimensions, every z would belong to a single component, and the others would get no gradient.

    Args:
        latent_dim: the number of latent dimensions M.
        components: the number of components K.

    Raises:
        InputError: when a count is below 1.

    Examples:
        >>> import torch
        >>> from pyrovae.priors import MixtureOfGaussians
        >>> prior = MixtureOfGaussians(2, components=5)
        >>> prior().log_prob(torch.zeros(7, 2)).shape
        torch.Size([7])
    """

    def __init__(self, latent_dim: int, components: int = 10) -> None:
        super().__init__()
        check_counts(latent_dim=latent_dim, components=components)
        self.latent_dim = latent_dim
        # On average the squared distance of two means is 2 * M * between, and the divergence of their
        # components is M * between / (1 - between), which is 4.
        between = 4 / (latent_dim + 4)
        self.log_weights = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(math.sqrt(between) * torch.randn(components, latent_dim))
        self.log_scale = nn.Parameter(torch.full((components, latent_dim), 0.5 * math.log(1 - between)))

    def forward(self) -> TorchDistributionMixin:
        """Return p(z), with batch shape `()` and event shape `(M,)`."""
        return DiagonalNormalMixture(self.log_weights, self.loc, self.log_scale.exp())
