"""Likelihoods as `likelihood(network, *, standardise)`, for the table of likelihoods.

Importing this file imports no torch, so that help can read the options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from pyrovae.likelihoods import Gaussian
    from pyrovae.networks import Standardisation


def gaussian(
    network: nn.Module, *, standardisation: Standardisation | None, standardise: bool = True
) -> Gaussian:
    """Make a Gaussian likelihood.

    Args:
        network: z -> means, with an `out_shape`.
        standardisation: the standardisation of the data, which the encoder shares; None if they have none.
        standardise: Whether vectors are standardised by the mean and the standard deviation of each column
            of the training data. Both become part of the model, which stays a density of data in their own
            units. Images stay as they are.
    """
    from pyrovae.likelihoods import Gaussian

    return Gaussian(network, standardisation=standardisation)
