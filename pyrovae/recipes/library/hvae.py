"""The recipe of the VAE with two levels of latents."""

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
def hvae(
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
    """VAE with two levels of latents: z2 ~ p(z2), z1 ~ p(z1 | z2), x ~ p(x | z1, z2).

    Args:
        latent_dim: The number of dimensions of z1, and of z2.
        likelihood: The likelihood p(x | z1, z2).
        posterior: The posterior q(z2 | x) of the upper level.
        prior: The prior p(z2) of the upper level.
        network: The network of encoder and decoder.
        width: The width of hidden layers. A convolutional network begins with an eighth as many channels.
        objective: The objective.
    """
    from pyrovae.models import HierarchicalVAE
    from pyrovae.networks import Joined
    from pyrovae.posteriors import DiagonalNormal

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
    upper = parts.make_posterior(parts.features())
    lower = Joined(parts.mixer(width + latent_dim), parts.features(), None)
    model = HierarchicalVAE(
        parts.make_prior(upper),
        DiagonalNormal(parts.mixer(latent_dim), latent_dim),
        parts.make_likelihood(Joined(parts.decoder(2 * latent_dim), None, None)),
        upper,
        DiagonalNormal(lower, latent_dim),
    )
    stage = Stage(
        model,
        objective=make_objective(objective, of_components),
        start=start_at_data(model.likelihood, model.prior, about.seed),
    )
    return Plan([stage], pixels=parts.pixels)
