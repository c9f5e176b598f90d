"""Priors as `prior(latent_dim, *, components)`, for the table of priors.

Importing this file imports no torch, so that help can read the options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

if TYPE_CHECKING:
    from torch import nn

    from pyrovae.networks import Standardisation
    from pyrovae.priors import MixtureOfGaussians, VampPrior

Count = Annotated[int, Ge(1)]


def mixture(latent_dim: int, *, components: Count = 100) -> MixtureOfGaussians:
    """Make a mixture of Gaussians.

    Args:
        latent_dim: M.
        components: The number of Gaussians of the mixture.
    """
    from pyrovae.priors import MixtureOfGaussians

    return MixtureOfGaussians(latent_dim, components)


def vamp(
    latent_dim: int,
    *,
    posterior: nn.Module,
    x_shape: tuple[int, ...],
    x_bounds: tuple[float, float] | None,
    num_classes: int | None,
    standardisation: Standardisation | None,
    components: Count = 100,
) -> VampPrior:
    """Make a VampPrior. It begins at data: its recipe calls `start_at` before training.

    Args:
        latent_dim: M, which the posterior already has.
        posterior: the posterior of the same model.
        x_shape: the event shape of the data.
        x_bounds: the least and the greatest value of the data, or None if they have no bounds.
        num_classes: C if the posterior takes a class beside x, else None.
        standardisation: the standardisation of the data, or None if they have none.
        components: The number of pseudo-inputs of the VampPrior.
    """
    from pyrovae.priors import VampPrior

    return VampPrior(posterior, x_shape, components, num_classes, x_bounds, standardisation=standardisation)
