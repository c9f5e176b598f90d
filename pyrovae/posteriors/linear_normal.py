"""The linear-Gaussian posterior."""

from __future__ import annotations

import math

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.distributions import MultivariateNormal
from pyrovae.networks import Shape, Standardisation, as_shape


class LinearNormal(nn.Module):
    """q(z | x) = N(A x + b, L L^T), with one covariance for all x.

    Where the whole model is linear and Gaussian, as in probabilistic PCA, the exact posterior is of this
    family.

    Args:
        x_shape: the event shape of the data, with D values in all.
        latent_dim: the number of latent dimensions M.
        standardisation: the standardisation of x, which the likelihood shares. The map A x + b is then one
            of standardised data. None means that x stays as it is.

    Examples:
        >>> import torch
        >>> from pyrovae.posteriors import LinearNormal
        >>> posterior = LinearNormal((1, 8, 8), latent_dim=2)
        >>> posterior(torch.zeros(5, 1, 8, 8)).batch_shape
        torch.Size([5])
    """

    def __init__(
        self, x_shape: Shape, latent_dim: int, standardisation: Standardisation | None = None
    ) -> None:
        super().__init__()
        self.x_shape, self.latent_dim = as_shape(x_shape), latent_dim
        self.standardisation = standardisation
        self.loc = nn.Linear(math.prod(self.x_shape), latent_dim)
        self.log_diagonal = nn.Parameter(torch.zeros(latent_dim))
        self.below_diagonal = nn.Parameter(torch.zeros(latent_dim, latent_dim))

    @property
    def scale_tril(self) -> Tensor:
        """L, the Cholesky factor of the covariance, `(M, M)`."""
        return self.below_diagonal.tril(-1) + self.log_diagonal.exp().diag()

    def forward(self, x: Tensor) -> TorchDistributionMixin:
        """Return q(z | x), with batch shape `leading` and event shape `(M,)`.

        Args:
            x: the data, `(*leading, *x_shape)`.
        """
        if self.standardisation is not None:
            x = self.standardisation(x)
        loc = self.loc(x.flatten(-len(self.x_shape)))
        return MultivariateNormal(loc, scale_tril=self.scale_tril)

    @torch.no_grad()
    def set_to(self, weight: Tensor, bias: Tensor, covariance: Tensor) -> None:
        """Make q(z | x) = N(weight x + bias, covariance), for standardised x if it is standardised.

        Args:
            weight: A, `(M, D)`.
            bias: b, `(M,)`.
            covariance: L L^T, `(M, M)`.
        """
        scale_tril = torch.linalg.cholesky(covariance)
        self.loc.weight.copy_(weight)
        self.loc.bias.copy_(bias)
        self.log_diagonal.copy_(scale_tril.diagonal().log())
        self.below_diagonal.copy_(scale_tril.tril(-1))
