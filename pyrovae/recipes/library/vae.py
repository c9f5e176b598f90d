"""The recipe of the variational autoencoder."""

from __future__ import annotations

from typing import Any

from pyrovae.recipes.about import About
from pyrovae.recipes.components import (
    Count,
    Likelihood,
    Network,
    Objective,
    Parts,
    Posterior,
    Prior,
    make_objective,
    start_at_data,
)
from pyrovae.recipes.plan import Plan, Stage
from pyrovae.recipes.recipe import recipe


@recipe()
def vae(
    about: About,
    *,
    latent_dim: Count = 10,
    likelihood: Likelihood = "auto",
    posterior: Posterior = "normal",
    prior: Prior = "normal",
    network: Network = "mlp",
    width: Count = 256,
    objective: Objective = "elbo",
    **of_components: Any,
) -> Plan:
    """Variational autoencoder: z ~ p(z), x ~ p(x | z).

    With a `beta` other than 1 it is the beta-VAE.

    Args:
        latent_dim: The number of dimensions of z.
        likelihood: The likelihood p(x | z).
        posterior: The posterior q(z | x).
        prior: The prior p(z).
        network: The network of encoder and decoder.
        width: The width of hidden layers. A convolutional network begins with an eighth as many channels.
        objective: The objective.
    """
    from pyrovae.models import VAE

    parts = Parts(
        about,
        likelihood=likelihood,
        posterior=posterior,
        prior=prior,
        network=network,
        latent_dim=latent_dim,
        width=width,
        options=of_components,
    )
    q = parts.make_posterior(parts.features())
    model = VAE(parts.make_prior(q), parts.make_likelihood(parts.decoder(latent_dim)), q)
    stage = Stage(
        model,
        objective=make_objective(objective, of_components),
        start=start_at_data(model.likelihood, model.prior, about.seed),
    )
    return Plan([stage], pixels=parts.pixels)
