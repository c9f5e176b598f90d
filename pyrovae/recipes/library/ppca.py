"""The recipe of probabilistic PCA."""

from __future__ import annotations

from typing import Any

from pyrovae.recipes.about import About
from pyrovae.recipes.components import Count, Objective, make_objective, start_at_data
from pyrovae.recipes.plan import Plan, Stage
from pyrovae.recipes.recipe import recipe


@recipe()
def ppca(
    about: About, *, latent_dim: Count = 10, objective: Objective = "elbo", **of_components: Any
) -> Plan:
    """Probabilistic PCA: z ~ N(0, I), x ~ N(W z + mu, sigma^2 I), with its exact evidence.

    Args:
        latent_dim: The number of dimensions of z.
        objective: The objective.
    """
    from pyrovae.models import PPCA

    model = PPCA(about.x_shape, latent_dim)
    stage = Stage(
        model, objective=make_objective(objective, of_components), start=start_at_data(model.likelihood)
    )
    return Plan([stage])
