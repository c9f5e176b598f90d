"""The diagonal normal posterior."""

from __future__ import annotations

import math

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.errors import InputError, check_counts
from pyrovae.networks import features_of
from pyrovae.posteriors.scales import positive


class DiagonalNormal(nn.Module):
    """q(z | x) = N(loc(x), diag(scale(x)^2)) (Kingma & Welling 2014, equation 9).

    Args:
        network: maps x to features, in M2 x and y to features. It declares its `out_shape`.
        latent_dim: the number of latent dimensions M.
        scale_bounds: the least and the greatest scale; others are clamped to them. None means any scale
            above 1e-4. In a long training a rare datum may get a scale of 50 and a log likelihood that
            spoils the mean. Tomczak & Welling (2018) keep the scales between exp(-3) and exp(1). No
            gradient reaches a scale beyond the bounds, so they should contain the scales at the start,
            about 0.7.

    Raises:
        InputError: when the `out_shape` of the network is missing or not `(F,)`; when `latent_dim` is below
            1; or when `scale_bounds` are not two finite numbers, the first above 0 and below the second.

    Examples:
        >>> import torch
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import DiagonalNormal
        >>> posterior = DiagonalNormal(MLP((1, 8, 8), 64), latent_dim=2)
        >>> q = posterior(torch.zeros(5, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([2]))
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
        """Return q(z | x), with batch shape `leading` and event shape `(M,)`.

        Args:
            context: x, `(*leading, *x_shape)`; in M2 also the class y, `(*leading,)`.
        """
        features = self.network(*context)
        scale = positive(self.scale(features))
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
