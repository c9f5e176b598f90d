"""The recipe of M1: a VAE. After its training the estimator fits a classifier to the latents."""

from __future__ import annotations

from typing import Any, Literal

from pyrovae.recipes import About, Likelihood, Network, Objective, Plan, Posterior, Prior, recipe, vae
from pyrovae.recipes.components import Count


@recipe(
    classes=True,
    epochs=50,
    batch_size=100,
    learning_rate=2e-3,
    beta=0.1,
    validation_fraction=0.0,
)
def m1(
    about: About,
    *,
    latent_dim: Count = 20,
    likelihood: Likelihood = "bernoulli",
    posterior: Posterior = "normal",
    prior: Prior = "normal",
    network: Network = "mlp",
    width: Count = 256,
    objective: Objective = "elbo",
    m1_classifier: Literal[
        "logistic", "linear-svm", "rbf-svm", "label-spreading", "averaged"
    ] = "label-spreading",
    neighbours: Count = 7,
    **of_components: Any,
) -> Plan:
    """M1, a VAE and a classifier of its latents: z ~ p(z), x ~ p(x | z).

    The plan trains the VAE. Afterwards the estimator gives `m1_classifier` and `neighbours` to
    `fit_m1_classifier`.

    Args:
        latent_dim: The number of dimensions of z.
        likelihood: The likelihood p(x | z).
        posterior: The posterior q(z | x).
        prior: The prior p(z).
        network: The network of encoder and decoder.
        width: The width of hidden layers. A convolutional network begins with an eighth as many channels.
        objective: The objective.
        m1_classifier: The classifier of latents. "averaged" weighs logistic regression, a linear M2 and
            label spreading by held-out labels. The SVMs have no `predict_proba`.
        neighbours: The number of neighbours of each datum in the graph along which labels spread.
    """
    return vae(
        about,
        latent_dim=latent_dim,
        likelihood=likelihood,
        posterior=posterior,
        prior=prior,
        network=network,
        width=width,
        objective=objective,
        **of_components,
    )
