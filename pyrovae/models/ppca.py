"""Probabilistic PCA (Tipping & Bishop 1999): the VAE in which all is linear and Gaussian.

    for each datum n in plate `data` (N)
        z_n ~ N(0, I)                       over (M,)
        x_n ~ N(W z_n + mu, sigma^2 I)      over (D,)
    guide
        z_n ~ N(A x_n + b, L L^T)           the family of the exact posterior

Its evidence, posterior and maximum-likelihood fit are known in closed form, so every estimate of the
library can be compared with the truth. Equation numbers are those of the paper.

The closed forms are computed in 64-bit, whatever the type of parameters and data, and without differences
of large numbers. So they are exact also where the columns of the data have unlike units.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.compute.precision import in_64_bits
from pyrovae.data.checks import check_data
from pyrovae.errors import InputError
from pyrovae.likelihoods import Gaussian
from pyrovae.networks import MLP, Shape
from pyrovae.posteriors import LinearNormal
from pyrovae.priors import StandardNormal
from pyrovae.programs.parameters import program


class _Factors(NamedTuple):
    """The QR factors of W above sigma I: R^T R = W^T W + sigma^2 I.

    Attributes:
        top: the part of Q beside W, `(D, M)`.
        bottom: the part of Q beside sigma I, `(M, M)`.
        triangle: R, upper triangular, `(M, M)`.
        sigma: sigma, a scalar.
    """

    top: Tensor
    bottom: Tensor
    triangle: Tensor
    sigma: Tensor


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
        """Return the exact log p(x) = log N(x; mu, W W^T + sigma^2 I), in nats (equation 4).

        Args:
            x: the data, `(N, *x_shape)`.

        Returns:
            The log density of each datum, `(N,)` in 64-bit.
        """
        top, bottom, triangle, sigma = self._factors()
        # The distance (x - mu)^T (W W^T + sigma^2 I)^-1 (x - mu) is the squared residual, in units of
        # sigma, of a least squares problem: W z is to explain x - mu, and sigma z is to be 0.
        centred = in_64_bits(self._flat(x)) - in_64_bits(self.mean)
        explained = centred @ top
        residual = torch.cat([centred - explained @ top.T, explained @ bottom.T], -1) / sigma
        log_det = 2 * (triangle.diagonal().abs() / sigma).log().sum()
        constant = len(top) * (math.log(2 * math.pi) + 2 * sigma.log())
        return -0.5 * (residual.square().sum(-1) + log_det + constant)

    def exact_posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """Return the exact p(z | x), with batch shape `(N,)` and event shape `(M,)` (equation 12).

        Args:
            x: the data, `(N, *x_shape)`.
        """
        weight, bias, covariance = self._posterior_parameters()
        mean = in_64_bits(self._flat(x)) @ weight.T + bias
        scale_tril = torch.linalg.cholesky(covariance)
        return dist.MultivariateNormal(mean.to(x.dtype), scale_tril=scale_tril.to(x.dtype))

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
        check_data(x)
        flat = in_64_bits(self._flat(x))
        latent_dim, dimensions = self.weight.shape[1], self.weight.shape[0]
        num_noise = max(dimensions - latent_dim, 1)
        mean = flat.mean(0)
        # Singular values of the data hold small variances beside large ones. Eigenvalues of the covariance
        # matrix would lose them.
        triangle = torch.linalg.qr((flat - mean) / math.sqrt(len(flat)), mode="r").R
        _, singular_values, directions = torch.linalg.svd(triangle, full_matrices=False)
        values, vectors = singular_values.square(), directions.T
        variance = values[latent_dim:].sum() / num_noise
        # What rounding adds to this variance: that of the data, and that of this computation.
        share = (1 - vectors[:, :latent_dim].square().sum(1)).clamp(min=0)
        rounding = (torch.finfo(x.dtype).eps ** 2 * flat.square().mean(0) * share).sum() / num_noise
        rounding += (dimensions * torch.finfo(flat.dtype).eps) ** 2 * values[0]
        if variance <= 4 * rounding:
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

    def _factors(self) -> _Factors:
        weight, sigma = in_64_bits(self.weight), in_64_bits(self.likelihood.log_scale).exp()
        identity = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
        q, triangle = torch.linalg.qr(torch.cat([weight, sigma * identity]))
        return _Factors(q[: len(weight)], q[len(weight) :], triangle, sigma)

    def _posterior_parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return A `(M, D)`, b `(M,)` and S `(M, M)` of the exact p(z | x) = N(A x + b, S), in 64-bit."""
        top, bottom, triangle, _ = self._factors()
        weight = torch.linalg.solve_triangular(triangle, top.T, upper=True)
        # sigma R^-1, whose square is S, is the lower part of Q.
        return weight, -weight @ in_64_bits(self.mean), bottom @ bottom.T

    def _flat(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1)
