"""Probabilistic PCA (Tipping & Bishop 1999): the VAE whose every part is linear and Gaussian.

    for each datum n in plate `data` (N)
        z_n ~ N(0, I)                       over (M,)
        x_n ~ N(W z_n + mu, sigma^2 I)      over (D,)
    guide
        z_n ~ N(A x_n + b, L L^T)           the family that holds the exact posterior

Its evidence, posterior and maximum-likelihood fit are known in closed form, so everything that the
library estimates can be held against the truth.
"""

from __future__ import annotations

import math

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
    """Probabilistic PCA of data with event shape `x_shape` (D values in all) in M dimensions.

    Args:
        x_shape: event shape of the data, `(D,)` or an image's.
        latent_dim: M.
        posterior: another posterior than the linear-Gaussian one.
    """

    def __init__(self, x_shape: Shape, latent_dim: int, posterior: nn.Module | None = None) -> None:
        super().__init__()
        self.prior = StandardNormal(latent_dim)
        self.likelihood = Gaussian(MLP(latent_dim, x_shape, hidden=()))
        self.posterior = posterior or LinearNormal(x_shape, latent_dim)

    @program
    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """p(x, z) for data `(B, *x_shape)`; there is no use for the classes `y`."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)

    @program
    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """q(z | x) for data `(B, *x_shape)`."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))

    # The equations' symbols, where the modules keep them.

    @property
    def weight(self) -> Tensor:
        """W, `(D, M)`."""
        return self.likelihood.network.layers[0].weight  # type: ignore[union-attr, index]

    @property
    def mean(self) -> Tensor:
        """mu, `(D,)`."""
        return self.likelihood.network.layers[0].bias  # type: ignore[union-attr, index]

    @property
    def variance(self) -> Tensor:
        """sigma^2, a scalar."""
        return (2 * self.likelihood.log_scale).exp()

    def log_evidence(self, x: Tensor) -> Tensor:
        """The exact log p(x) = log N(x; mu, W W^T + sigma^2 I), in nats, `(N,)` (equation 4)."""
        diagonal = self.variance.expand(len(self.mean))
        return dist.LowRankMultivariateNormal(self.mean, self.weight, diagonal).log_prob(self._flat(x))

    def exact_posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """The exact p(z | x), batch shape `(N,)` and event shape `(M,)` (equation 12)."""
        weight, bias, covariance = self._posterior_parameters()
        return dist.MultivariateNormal(self._flat(x) @ weight.T + bias, covariance)

    def set_guide_to_exact_posterior(self) -> None:
        """Give the linear-Gaussian guide the exact posterior's parameters."""
        if not isinstance(self.posterior, LinearNormal):
            raise InputError(
                f"a {type(self.posterior).__name__} guide cannot hold the exact posterior: "
                "build PPCA with its default posterior, LinearNormal."
            )
        self.posterior.set_to(*self._posterior_parameters())

    @torch.no_grad()
    def fit_closed_form(self, x: Tensor) -> None:
        """Set W, mu and sigma^2 to their maximum-likelihood values for data `(N, *x_shape)`
        (equations 7 and 8, with R = I), and the guide, if it can hold it, to the exact posterior.

        Raises:
            InputError: M is not below the number of directions in which the data vary.
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
                "left over for the noise, and the likelihood has no maximum: use fewer."
            )
        stretch = (values[:latent_dim] - variance).clamp(min=0).sqrt()
        self.weight.copy_(vectors[:, :latent_dim] * stretch)
        self.mean.copy_(mean)
        self.likelihood.log_scale.fill_(0.5 * math.log(variance))
        if isinstance(self.posterior, LinearNormal):
            self.set_guide_to_exact_posterior()

    def _posterior_parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """The exact posterior N(weight x + bias, covariance): `(M, D)`, `(M,)`, `(M, M)`."""
        identity = torch.eye(self.weight.shape[1], dtype=self.weight.dtype, device=self.weight.device)
        inner = self.weight.T @ self.weight + self.variance * identity
        weight = torch.linalg.solve(inner, self.weight.T)
        return weight, -weight @ self.mean, self.variance * torch.linalg.inv(inner)

    def _flat(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1)
