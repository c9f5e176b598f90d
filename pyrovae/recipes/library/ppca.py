"""The recipe of probabilistic PCA."""

from __future__ import annotations

from typing import Any

from pyrovae.recipes.about import About
from pyrovae.recipes.components import (
    Count,
    Objective,
    make_objective,
    make_standardisation,
    start_at_data,
)
from pyrovae.recipes.plan import Plan, Stage
from pyrovae.recipes.recipe import recipe


@recipe()
def ppca(
    about: About,
    *,
    latent_dim: Count = 10,
    standardise: bool = True,
    objective: Objective = "elbo",
    **of_components: Any,
) -> Plan:
    """Probabilistic PCA: z ~ N(0, I), x ~ N(W z + mu, sigma^2 I), with its exact evidence.

    Args:
        latent_dim: The number of dimensions of z.
        standardise: Whether vectors are standardised by the mean and the standard deviation of each column
            of the training data. Both become part of the model, which stays a density of data in their own
            units. Images stay as they are.
        objective: The objective.
    """
    from pyrovae.models import PPCA

    standardisation = make_standardisation(about, standardise)
    model = PPCA(about.x_shape, latent_dim, standardisation=standardisation)
    stage = Stage(
        model, objective=make_objective(objective, of_components), start=start_at_data(model.likelihood)
    )
    return Plan([stage])
