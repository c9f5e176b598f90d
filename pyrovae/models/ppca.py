"""Probabilistic PCA (Tipping & Bishop 1999): the VAE in which all is linear and Gaussian.

    for each datum n in plate `data` (N)
        z_n ~ N(0, I)                       over (M,)
        x_n ~ N(W z_n + mu, sigma^2 I)      over (D,)
    guide
        z_n ~ N(A x_n + b, L L^T)           the family of the exact posterior

Its evidence, posterior and maximum-likelihood fit are known in closed form, so every estimate of the
library can be compared with the truth. Equation numbers are those of the paper.

With a standardisation, of shift m and scales S = diag(s), this is the model of S^-1 (x - m). In their own
units, x_n ~ N(m + S (W z_n + mu), sigma^2 S^2).

The closed forms are computed in 64-bit, whatever the type of parameters and data, and without differences
of large numbers. So they are exact also where the columns of the data have unlike units.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import pyro
import torch
from torch import Tensor, nn

from pyrovae.compute.precision import in_64_bits
from pyrovae.data.checks import check_data, check_tensor
from pyrovae.distributions import MultivariateNormal, filled, masked
from pyrovae.errors import InputError
from pyrovae.likelihoods import Gaussian
from pyrovae.networks import MLP, Shape, Standardisation, centre_of
from pyrovae.posteriors import LinearNormal
from pyrovae.priors import StandardNormal
from pyrovae.programs.parameters import program


class _Factors(NamedTuple):
    """The QR factors of W above sigma I: R^T R = W^T W + sigma^2 I.

    Where values are missing, each datum has factors of its own, with 0 in the rows of W that it lacks.

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
        standardisation: the standardisation of the data. Probabilistic PCA has one variance of the noise
            for all columns, so columns of unlike units need one. None means that the data stay as they are.

    Examples:
        >>> import torch
        >>> from pyrovae.models import PPCA
        >>> x = torch.randn(100, 5) @ torch.randn(5, 5)
        >>> ppca = PPCA(5, latent_dim=2)
        >>> ppca.fit_closed_form(x)
        >>> ppca.log_evidence(x).shape
        torch.Size([100])
    """

    def __init__(
        self,
        x_shape: Shape,
        latent_dim: int,
        posterior: nn.Module | None = None,
        standardisation: Standardisation | None = None,
    ) -> None:
        super().__init__()
        self.prior = StandardNormal(latent_dim)
        network = MLP(latent_dim, x_shape, hidden=())
        self.likelihood = Gaussian(network, standardisation=standardisation)
        self.posterior = posterior or LinearNormal(x_shape, latent_dim, standardisation)

    @program
    def model(self, x: Tensor, y: Tensor | None = None, observed: Tensor | None = None) -> None:
        """Define p(x, z) for data `(B, *x_shape)`. The classes `y` are not used."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", masked(self.likelihood(z), observed), obs=x)

    @program
    def guide(self, x: Tensor, y: Tensor | None = None, observed: Tensor | None = None) -> None:
        """Define q(z | x) for data `(B, *x_shape)`.

        Where values are missing, no `LinearNormal` is the exact posterior, whose covariance depends on the
        mask. The exact posterior itself then stands in its place.
        """
        exact = observed is not None and isinstance(self.posterior, LinearNormal)
        with pyro.plate("data", len(x)):
            x = filled(x, observed, centre_of(self.likelihood))
            pyro.sample("z", self.exact_posterior(x, observed) if exact else self.posterior(x))

    # The symbols of the equations, by the parameters that hold them: those of standardised data.

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

    @property
    def standardisation(self) -> Standardisation | None:
        """The standardisation of the data, if they have one."""
        return self.likelihood.standardisation

    def log_evidence(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return the exact log p(x) = log N(x; mu, W W^T + sigma^2 I), in nats (equation 4).

        With a standardisation it is log N(x; m + S mu, S (W W^T + sigma^2 I) S).

        Args:
            x: the data, `(N, *x_shape)`.
            observed: true where a value was observed, `(N, *x_shape)`; the density is then that of the
                observed values. None means that none is missing.

        Returns:
            The log density of each datum, `(N,)` in 64-bit, on the CPU.
        """
        top, bottom, triangle, sigma = self._factors(observed)
        observed = None if observed is None else observed.to(sigma.device)
        # The distance (x - mu)^T (W W^T + sigma^2 I)^-1 (x - mu) is the squared residual, in units of
        # sigma, of a least squares problem: W z is to explain x - mu, and sigma z is to be 0.
        centred = self._centred(x, observed)
        explained = centred @ top
        residual = torch.cat([centred - explained @ top.mT, explained @ bottom.mT], -1) / sigma
        log_det = 2 * (triangle.diagonal(dim1=-2, dim2=-1).abs() / sigma).log().sum(-1)
        count = len(self.weight) if observed is None else observed.flatten(1).sum(-1)
        constant = count * (math.log(2 * math.pi) + 2 * sigma.log()) + 2 * self._log_scales(observed)
        return -0.5 * (residual.square().sum((-2, -1)) + log_det + constant).cpu()

    def exact_posterior(self, x: Tensor, observed: Tensor | None = None) -> MultivariateNormal:
        """Return the exact p(z | x), with batch shape `(N,)` and event shape `(M,)` (equation 12).

        Args:
            x: the data, `(N, *x_shape)`.
            observed: true where a value was observed, `(N, *x_shape)`; the posterior is then that given the
                observed values. None means that none is missing.
        """
        top, bottom, triangle, _ = self._factors(observed)
        explained = self._centred(x, observed) @ top
        mean = torch.linalg.solve_triangular(triangle, explained.mT, upper=True).squeeze(-1)
        scale_tril = torch.linalg.cholesky(bottom @ bottom.mT)
        place = self.weight.device, x.dtype
        return MultivariateNormal(mean.to(*place), scale_tril=scale_tril.to(*place))

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
    def fit_closed_form(self, x: Tensor, noise_floor: float = 0.0) -> None:
        """Set W, mu and sigma^2 to their maximum-likelihood values (equations 7 and 8, with R = I).

        A standardisation is set to the mean and scale of each column first. A `LinearNormal` posterior is
        set to the exact posterior; any other one is left as it is.

        Args:
            x: the data, `(N, *x_shape)`.
            noise_floor: the least value of sigma^2, as a share of the variance along the last of the M
                directions. With a floor above 0, M may be the number of directions in which the data vary.
                W is then the maximum for this sigma^2.

        Raises:
            InputError: when M is not below the number of directions in which the data vary, or above it
                where there is a floor, or values are not finite.
        """
        check_tensor(x)
        if not x.isfinite().all():
            raise InputError(
                "the data hold values that are not finite, and the closed form needs all values: where "
                'some are missing, use fit(ppca, x, given={"observed": mask}).'
            )
        check_data(x)
        if self.standardisation is not None:
            self.standardisation.start_at(x)
        flat, units = self._standardised(x), self._scales()
        latent_dim, dimensions = self.weight.shape[1], self.weight.shape[0]
        num_noise = max(dimensions - latent_dim, 1)
        mean = flat.mean(0)
        # Singular values of the data hold small variances beside large ones. Eigenvalues of the covariance
        # matrix would lose them.
        triangle = torch.linalg.qr((flat - mean) / math.sqrt(len(flat)), mode="r").R
        _, singular_values, directions = torch.linalg.svd(triangle, full_matrices=False)
        values, vectors = singular_values.square(), directions.T
        variance = values[latent_dim:].sum() / num_noise
        if latent_dim <= len(values):
            variance = torch.maximum(variance, noise_floor * values[latent_dim - 1])
        # What rounding adds to this variance: that of the data, and that of this computation.
        share = (1 - vectors[:, :latent_dim].square().sum(1)).clamp(min=0)
        size = (in_64_bits(self._flat(x)) / units).square().mean(0)
        rounding = (torch.finfo(x.dtype).eps ** 2 * size * share).sum() / num_noise
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

    def _factors(self, observed: Tensor | None = None) -> _Factors:
        weight, sigma = in_64_bits(self.weight), in_64_bits(self.likelihood.log_scale).exp()
        dimensions, latent_dim = weight.shape
        noise = sigma * torch.eye(latent_dim, dtype=weight.dtype, device=weight.device)
        if observed is not None:  # a missing value has no row of W
            weight = weight * observed.flatten(1).unsqueeze(-1).to(weight.device)
            noise = noise.expand(len(observed), -1, -1)
        q, triangle = torch.linalg.qr(torch.cat([weight, noise], -2))
        return _Factors(q[..., :dimensions, :], q[..., dimensions:, :], triangle, sigma)

    def _posterior_parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return A `(M, D)`, b `(M,)` and S `(M, M)` of the exact p(z | x) = N(A x + b, S), in 64-bit."""
        top, bottom, triangle, _ = self._factors()
        weight = torch.linalg.solve_triangular(triangle, top.T, upper=True)
        # sigma R^-1, whose square is S, is the lower part of Q.
        return weight, -weight @ in_64_bits(self.mean), bottom @ bottom.T

    def _centred(self, x: Tensor, observed: Tensor | None) -> Tensor:
        """Return x - mu as rows, `(N, 1, D)` in 64-bit, with 0 where a value is missing."""
        centred = self._standardised(x) - in_64_bits(self.mean)
        mask = None if observed is None else observed.flatten(1).to(centred.device)
        return filled(centred, mask).unsqueeze(-2)

    def _standardised(self, x: Tensor) -> Tensor:
        """Return the data in the units of W and mu, as rows `(N, D)` in 64-bit."""
        flat = in_64_bits(self._flat(x))
        if self.standardisation is None:
            return flat
        return (flat - in_64_bits(self.standardisation.shift).flatten()) / self._scales()

    def _scales(self) -> Tensor:
        """Return s, the scale of each column, `(D,)` in 64-bit; ones without a standardisation."""
        if self.standardisation is None:
            return torch.ones_like(in_64_bits(self.mean))
        return in_64_bits(self.standardisation.scale).flatten()

    def _log_scales(self, observed: Tensor | None) -> Tensor:
        """Return log det S over the observed columns: a scalar, or `(N,)` with a mask."""
        logs = self._scales().log()
        return logs.sum() if observed is None else (logs * observed.flatten(1).to(logs.device)).sum(-1)

    def _flat(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1).to(self.weight.device)
