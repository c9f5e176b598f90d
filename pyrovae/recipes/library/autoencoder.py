"""The recipe of the deterministic autoencoder."""

from __future__ import annotations

from typing import Any

from pyrovae.recipes.about import About
from pyrovae.recipes.components import (
    Count,
    Likelihood,
    Network,
    Objective,
    Parts,
    make_objective,
    start_at_data,
)
from pyrovae.recipes.plan import Plan, Stage
from pyrovae.recipes.recipe import recipe


@recipe()
def autoencoder(
    about: About,
    *,
    latent_dim: Count = 10,
    likelihood: Likelihood = "auto",
    network: Network = "mlp",
    width: Count = 256,
    objective: Objective = "elbo",
    **of_components: Any,
) -> Plan:
    """Deterministic autoencoder, for contrast: z = encoder(x), x ~ p(x | z).

    Args:
        latent_dim: The number of dimensions of z.
        likelihood: The likelihood p(x | z).
        network: The network of encoder and decoder.
        width: The width of hidden layers. A convolutional network begins with an eighth as many channels.
        objective: The objective.
    """
    from pyrovae.models import Autoencoder

    parts = Parts(
        about,
        likelihood=likelihood,
        network=network,
        latent_dim=latent_dim,
        width=width,
        options=of_components,
    )
    model = Autoencoder(parts.encoder(latent_dim), parts.make_likelihood(parts.decoder(latent_dim)))
    stage = Stage(
        model, objective=make_objective(objective, of_components), start=start_at_data(model.likelihood)
    )
    return Plan([stage], pixels=parts.pixels)
