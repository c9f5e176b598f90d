"""Probabilistic PCA (Tipping & Bishop 1999): the VAE in which all is linear and Gaussian.

    for each datum n in plate `data` (N)
        z_n ~ N(0, I)                       over (M,)
        x_n ~ N(W z_n + mu, sigma^2 I)      over (D,)
    guide
        z_n ~ N(A x_n + b, L L^T)           the family of the exact posterior

Its evidence, posterior and maximum-likelihood fit are known in closed form, so every estimate of the
library can be compared with the truth. Equation numbers are those of the paper.
"""

from __future__ import annotations

import math
from typing import cast

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.errors import InputError
from pyrovae.likelihoods import Gaussian
from pyrovae.networks import MLP, Shape
from pyrovae.posteriors import LinearNormal
from pyrovae.priors import StandardNormal
from pyrovae.programs.parameters import program


class PPCA(nn.Module):
    """Probabilistic PCA.

    Args:
        x_shape: the event shape of the data, `(D,)` or that of images with D pixels.
        latent_dim: the number of latent dimensions M.
        posterior: `posterior(x)` is a distribution over z. By default it is a `LinearNormal`, whose family
            contains the exact posterior.

    Examples:
        >>> import torch
        >>> from pyrovae.models import PPCA
        >>> x = torch.randn(100, 5) @ torch.randn(5, 5)
        >>> ppca = PPCA(5, latent_dim=2)
        >>> ppca.fit_closed_form(x)
        >>> ppca.log_evidence(x).shape
        torch.Size([100])
    """

    def __init__(self, x_shape: Shape, latent_dim: int, posterior: nn.Module | None = None) -> None:
        super().__init__()
        self.prior = StandardNormal(latent_dim)
        self.likelihood = Gaussian(MLP(latent_dim, x_shape, hidden=()))
        self.posterior = posterior or LinearNormal(x_shape, latent_dim)

    @program
    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """Define p(x, z) for data `(B, *x_shape)`. The classes `y` are not used."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)

    @program
    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """Define q(z | x) for data `(B, *x_shape)`."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))

    # The symbols of the equations, by the parameters that hold them.

    @property
    def _affine(self) -> nn.Linear:
        return cast(MLP, self.likelihood.network).output_layer

    @property
    def weight(self) -> Tensor:
        """W, `(D, M)`."""
        return self._affine.weight

    @property
    def mean(self) -> Tensor:
        """mu, `(D,)`."""
        return self._affine.bias

    @property
    def variance(self) -> Tensor:
        """sigma^2, a scalar."""
        return (2 * self.likelihood.log_scale).exp()

    def log_evidence(self, x: Tensor) -> Tensor:
        """Return the exact log p(x) = log N(x; mu, W W^T + sigma^2 I) in nats, `(N,)` (equation 4).

        Args:
            x: the data, `(N, *x_shape)`.
        """
        diagonal = self.variance.expand(len(self.mean))
        return dist.LowRankMultivariateNormal(self.mean, self.weight, diagonal).log_prob(self._flat(x))

    def exact_posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """Return the exact p(z | x), with batch shape `(N,)` and event shape `(M,)` (equation 12).

        Args:
            x: the data, `(N, *x_shape)`.
        """
        weight, bias, covariance = self._posterior_parameters()
        return dist.MultivariateNormal(self._flat(x) @ weight.T + bias, covariance)

    def set_guide_to_exact_posterior(self) -> None:
        """Set the parameters of the guide to those of the exact posterior.

        Raises:
            InputError: when the posterior is not a `LinearNormal`.
        """
        if not isinstance(self.posterior, LinearNormal):
            raise InputError(
                f"a {type(self.posterior).__name__} cannot be set to the exact posterior: build PPCA with "
                "its default posterior, LinearNormal."
            )
        self.posterior.set_to(*self._posterior_parameters())

    @torch.no_grad()
    def fit_closed_form(self, x: Tensor) -> None:
        """Set W, mu and sigma^2 to their maximum-likelihood values (equations 7 and 8, with R = I).

        A `LinearNormal` posterior is set to the exact posterior; any other one is left as it is.

        Args:
            x: the data, `(N, *x_shape)`.

        Raises:
            InputError: when M is not below the number of directions in which the data vary.
        """
        flat = self._flat(x)
        latent_dim, dimensions = self.weight.shape[1], self.weight.shape[0]
        mean = flat.mean(0)
        values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        variance = values[latent_dim:].sum() / max(dimensions - latent_dim, 1)
        if variance <= torch.finfo(x.dtype).eps * values[0]:
            raise InputError(
                f"with {latent_dim} latent dimensions no variance of the {dimensions} data dimensions is "
                "left for the noise, so the likelihood has no maximum: use fewer latent dimensions."
            )
        stretch = (values[:latent_dim] - variance).clamp(min=0).sqrt()
        self.weight.copy_(vectors[:, :latent_dim] * stretch)
        self.mean.copy_(mean)
        self.likelihood.log_scale.fill_(0.5 * math.log(variance))
        if isinstance(self.posterior, LinearNormal):
            self.set_guide_to_exact_posterior()

    def _posterior_parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return A `(M, D)`, b `(M,)` and S `(M, M)` of the exact p(z | x) = N(A x + b, S)."""
        identity = torch.eye(self.weight.shape[1], dtype=self.weight.dtype, device=self.weight.device)
        inner = self.weight.T @ self.weight + self.variance * identity
        weight = torch.linalg.solve(inner, self.weight.T)
        return weight, -weight @ self.mean, self.variance * torch.linalg.inv(inner)

    def _flat(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1)
