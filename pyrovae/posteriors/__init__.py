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

from pyrovae.distributions import AmortisedFlow, MultivariateNormal, ZukoFlow
from pyrovae.distributions.zuko_import import zuko
from pyrovae.errors import InputError, check_counts
from pyrovae.flows import Flow, lower_triangle, triangle_cells
from pyrovae.networks import Shape, _shape, features_of


class DiagonalNormal(nn.Module):
    """q(z | x) = N(loc(x), diag(scale(x)^2)) (Kingma & Welling 2014, equation 9).

    Args:
        network: x -> features (in M2: x and y -> features), with an `out_shape`.
        latent_dim: M.
        scale_bounds: the least and the greatest scale, to which others are clamped; without, any above
            1e-4. A long training may give a rare datum scales of 50, and a log likelihood that spoils the
            mean; Tomczak & Welling (2018) kept theirs between exp(-3) and exp(1). Beyond the bounds no
            gradient reaches a scale, so they should hold those of the start, about 0.7.

    Raises:
        InputError: the network's `out_shape` is missing or not `(F,)`, `latent_dim` is below 1, or
            `scale_bounds` are not two finite numbers, the first above 0 and below the second.
    """

    def __init__(
        self, network: nn.Module, latent_dim: int, scale_bounds: tuple[float, float] | None = None
    ) -> None:
        check_counts(latent_dim=latent_dim)
        if scale_bounds is not None:
            _check_bounds(scale_bounds)
        super().__init__()
        self.network, self.latent_dim, self.scale_bounds = network, latent_dim, scale_bounds
        features = features_of(network)
        self.loc = nn.Linear(features, latent_dim)
        self.scale = nn.Linear(features, latent_dim)

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """For `x` of shape `(*leading, *x_shape)`, and in M2 the class `y` of shape `(*leading,)`: batch
        shape `leading`, event shape `(M,)`."""
        features = self.network(*context)
        scale = _positive(self.scale(features))
        if self.scale_bounds is not None:
            scale = scale.clamp(*self.scale_bounds)
        return dist.Normal(self.loc(features), scale).to_event(1)


def _check_bounds(scale_bounds: tuple[float, float]) -> None:
    try:
        least, greatest = scale_bounds
        valid = 0 < least < greatest < math.inf
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise InputError(
            f"scale_bounds is {scale_bounds!r}; expected the least and the greatest scale, the first above "
            "0 and below the second, such as (0.05, 2.7)."
        )


def _positive(number: Tensor) -> Tensor:
    # The floor keeps a posterior that collapses onto a point from dividing by zero.
    return functional.softplus(number) + 1e-4


class FullCovarianceNormal(nn.Module):
    """q(z | x) = N(loc(x), L(x) L(x)^T), with a lower triangular L of positive diagonal (Kingma & Welling
    2019, section 2.5.1). It begins as a diagonal normal.

    L = diag(s) (I + N), with a strictly lower triangular N: what the network says about one dimension's
    dependence on others has no unit. Entries of L itself would all be moved by as much in an optimiser's
    step, which is much in a dimension of small scale.

    Args:
        network: x -> features (in M2: x and y -> features), with an `out_shape`.
        latent_dim: M.

    Raises:
        InputError: the network's `out_shape` is missing or not `(F,)`, or `latent_dim` is below 1.
    """

    cells: Tensor

    def __init__(self, network: nn.Module, latent_dim: int) -> None:
        check_counts(latent_dim=latent_dim)
        super().__init__()
        self.network, self.latent_dim = network, latent_dim
        features = features_of(network)
        self.loc = nn.Linear(features, latent_dim)
        self.scale_tril = nn.Linear(features, latent_dim * (latent_dim + 1) // 2)  # N below the diagonal
        self.register_buffer("cells", triangle_cells(latent_dim), persistent=False)
        with torch.no_grad():
            off_diagonal = self.cells % latent_dim != self.cells // latent_dim
            self.scale_tril.weight[off_diagonal] = 0.0
            self.scale_tril.bias[off_diagonal] = 0.0

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """For `x` of shape `(*leading, *x_shape)`, and in M2 the class `y` of shape `(*leading,)`: batch
        shape `leading`, event shape `(M,)`."""
        features = self.network(*context)
        free = lower_triangle(self.scale_tril(features), self.cells, self.latent_dim)
        scale = _positive(free.diagonal(dim1=-2, dim2=-1))
        scale_tril = scale.unsqueeze(-1) * free.tril(-1) + torch.diag_embed(scale)
        return MultivariateNormal(self.loc(features), scale_tril=scale_tril)


class FlowPosterior(nn.Module):
    """q(z | x): a diagonal normal pushed through a flow whose transforms depend on x (`pyrovae.flows`).

    It samples and scores its draws in one pass, which is all that training and evaluation ask for; which
    flows can score other points too, and at what price, their docstrings say.

    Args:
        network: x -> features (in M2: x and y -> features), with an `out_shape`.
        latent_dim: M.
        flow: one of `pyrovae.flows`, over M dimensions.

    Raises:
        InputError: the flow is over another number of dimensions, or none of `pyrovae.flows`; the network's
            `out_shape` is missing or not `(F,)`.
    """

    def __init__(self, network: nn.Module, latent_dim: int, flow: Flow) -> None:
        super().__init__()
        if not isinstance(flow, Flow):
            raise InputError(
                f"flow is {flow!r}; expected one of pyrovae.flows, such as Planar({latent_dim}). A flow of "
                "Zuko goes into a ZukoPosterior."
            )
        if flow.latent_dim != latent_dim:
            raise InputError(
                f"latent_dim is {latent_dim}, but the {type(flow).__name__} flow is over "
                f"{flow.latent_dim} dimensions: build both with the same."
            )
        self.network, self.latent_dim, self.flow = network, latent_dim, flow
        features = features_of(network)
        self.loc = nn.Linear(features, latent_dim)
        self.scale = nn.Linear(features, latent_dim)
        self.context = nn.Linear(features, flow.context_dim)
        flow.start_near_identity(self.context)

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """For `x` of shape `(*leading, *x_shape)`, and in M2 the class `y` of shape `(*leading,)`: batch
        shape `leading`, event shape `(M,)`."""
        features = self.network(*context)
        base = dist.Normal(self.loc(features), _positive(self.scale(features))).to_event(1)
        return AmortisedFlow(base, self.flow, self.context(features))


class ZukoPosterior(nn.Module):
    """q(z | x) by any flow of Zuko that takes a context (https://zuko.readthedocs.io).

    Zuko's flows are made to score: their transform goes from z to noise, and they draw by its inverse. For
    autoregressive flows that takes M passes, one after another; `invert` takes the transform from noise
    to z instead, so that MAF becomes IAF, which draws and scores its draws in one.

    Args:
        network: x -> features (in M2: x and y -> features).
        flow: of M `features` and, as `context`, as many as the network has.
        invert: draw by the flow's transform, instead of by its inverse.

    Raises:
        InputError: not a flow of Zuko, or one whose context has not the size of the network's features.
    """

    def __init__(self, network: nn.Module, flow: nn.Module, invert: bool = False) -> None:
        super().__init__()
        if not isinstance(flow, zuko.lazy.Flow):
            raise InputError(
                f"{type(flow).__name__} is not a flow of Zuko: pass one of zuko.flows that is built of a "
                "transform and a base, such as zuko.flows.MAF(features=M, context=F)."
            )
        self.network, self.flow, self.invert = network, flow, invert
        self._check_context()

    @torch.no_grad()
    def _check_context(self) -> None:
        features = getattr(self.network, "out_shape", None)
        if features is None:  # a network that does not say what it makes: the first datum will tell
            return
        like = next(self.flow.parameters(), torch.zeros(()))
        try:
            distribution = self.flow(like.new_zeros(*features))
            distribution.log_prob(like.new_zeros(*distribution.event_shape))
        except (RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"the {type(self.flow).__name__} does not take the network's features, {features}, as its "
                f"context ({error}): build it with context={features[0]}."
            ) from error

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """For `x` of shape `(*leading, *x_shape)`, and in M2 the class `y` of shape `(*leading,)`: batch
        shape `leading`, event shape `(M,)`."""
        return ZukoFlow(self.flow, self.network(*context), self.invert)


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
        return MultivariateNormal(loc, scale_tril=self.scale_tril)

    @torch.no_grad()
    def set_to(self, weight: Tensor, bias: Tensor, covariance: Tensor) -> None:
        """Make this N(weight x + bias, covariance), with shapes `(M, D)`, `(M,)` and `(M, M)`."""
        scale_tril = torch.linalg.cholesky(covariance)
        self.loc.weight.copy_(weight)
        self.loc.bias.copy_(bias)
        self.log_diagonal.copy_(scale_tril.diagonal().log())
        self.below_diagonal.copy_(scale_tril.tril(-1))
