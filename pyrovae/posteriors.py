"""Posteriors: modules whose `forward(x)` returns a distribution over the latent `z`.

A posterior owns its network (x -> features) and the affine heads that turn features into the
distribution's parameters.
"""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.nn import functional

from pyrovae.networks import Shape, _shape


class DiagonalNormal(nn.Module):
    """q(z | x) = N(loc(x), diag(scale(x)^2)) (Kingma & Welling 2014, equation 9).

    Args:
        network: x -> features (in M2: x and y -> features), with an `out_shape`.
        latent_dim: M.
    """

    def __init__(self, network: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.network, self.latent_dim = network, latent_dim
        (features,) = network.out_shape  # type: ignore[misc]
        self.loc = nn.Linear(features, latent_dim)
        self.scale = nn.Linear(features, latent_dim)

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """For `x` of shape `(*leading, *x_shape)`, and in M2 the class `y` of shape `(*leading,)`: batch
        shape `leading`, event shape `(M,)`."""
        features = self.network(*context)
        # The floor keeps a posterior that collapses onto a point from dividing by zero.
        scale = functional.softplus(self.scale(features)) + 1e-4
        return dist.Normal(self.loc(features), scale).to_event(1)


class LinearNormal(nn.Module):
    """q(z | x) = N(A x + b, L L^T) with one covariance for all x: the exact posterior's own family
    where everything is linear and Gaussian, as in probabilistic PCA.

    Args:
        x_shape: event shape of the data.
        latent_dim: M.
    """

    def __init__(self, x_shape: Shape, latent_dim: int) -> None:
        super().__init__()
        self.x_shape, self.latent_dim = _shape(x_shape), latent_dim
        self.loc = nn.Linear(math.prod(self.x_shape), latent_dim)
        self.log_diagonal = nn.Parameter(torch.zeros(latent_dim))
        self.below_diagonal = nn.Parameter(torch.zeros(latent_dim, latent_dim))

    @property
    def scale_tril(self) -> Tensor:
        """L, the Cholesky factor of the covariance: `(M, M)`."""
        return self.below_diagonal.tril(-1) + self.log_diagonal.exp().diag()

    def forward(self, x: Tensor) -> TorchDistributionMixin:
        """For `x` of shape `(*leading, *x_shape)`: batch shape `leading`, event shape `(M,)`."""
        loc = self.loc(x.flatten(-len(self.x_shape)))
        return dist.MultivariateNormal(loc, scale_tril=self.scale_tril)

    @torch.no_grad()
    def set_to(self, weight: Tensor, bias: Tensor, covariance: Tensor) -> None:
        """Make this N(weight x + bias, covariance), with shapes `(M, D)`, `(M,)` and `(M, M)`."""
        scale_tril = torch.linalg.cholesky(covariance)
        self.loc.weight.copy_(weight)
        self.loc.bias.copy_(bias)
        self.log_diagonal.copy_(scale_tril.diagonal().log())
        self.below_diagonal.copy_(scale_tril.tril(-1))
