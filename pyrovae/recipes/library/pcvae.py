"""The recipe of the prediction-constrained VAE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyrovae.recipes.about import About
from pyrovae.recipes.components import (
    Count,
    Likelihood,
    Network,
    Parts,
    Posterior,
    Prior,
    Share,
    Weight,
    start_at_data,
)
from pyrovae.recipes.library.beneath import Beneath, check_classes
from pyrovae.recipes.plan import Plan, Stage
from pyrovae.recipes.recipe import recipe

if TYPE_CHECKING:
    from torch import Tensor


@recipe(classes=True, epochs=50, batch_size=100, learning_rate=2e-3, validation_fraction=0.0)
def pcvae(
    about: About,
    *,
    latent_dim: Count = 20,
    likelihood: Likelihood = "auto",
    posterior: Posterior = "normal",
    prior: Prior = "normal",
    network: Network = "mlp",
    width: Count = 256,
    prediction: Weight = 25.0,
    constraint_delay: Weight = 0.0,
    constraint_warm_up: Weight = 0.0,
    spread: bool = True,
    neighbours: Count = 7,
    vae_epochs: Count = 50,
    vae_beta: Weight = 0.1,
    vae_validation_fraction: Share = 0.0,
    **of_components: Any,
) -> Plan:
    """Prediction-constrained VAE: z predicts the class, y ~ p(y | z), weighted by lambda.

    Args:
        latent_dim: The number of dimensions of z.
        likelihood: The likelihood p(x | z).
        posterior: The posterior q(z | x).
        prior: The prior p(z).
        network: The network of encoder and decoder.
        width: The width of hidden layers. A convolutional network begins with an eighth as many channels.
        prediction: Lambda, the weight of the mean of log p(y | z) over the labelled data.
        constraint_delay: The number of epochs at the start in which the constraints have no weight.
        constraint_warm_up: The number of epochs after the delay over which the constraints' weights rise.
        spread: Whether labels first spread to unlabelled data, over the latents of a VAE that is trained
            before the model.
        neighbours: The number of neighbours of each datum in the graph along which labels spread.
        vae_epochs: The number of passes through the data in the training of the VAE for spreading.
        vae_beta: The weight of the KL term in the training of the VAE for spreading.
        vae_validation_fraction: The share of the training data that chooses the best epoch of the VAE for
            spreading.
    """
    from pyrovae.classifiers import LinearClassifier
    from pyrovae.models import PCVAE

    check_classes("pcvae", about.num_classes)
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
    p = parts.make_prior(q)
    decoder = parts.make_likelihood(parts.decoder(latent_dim))
    model = PCVAE(p, decoder, q, LinearClassifier(latent_dim, about.num_classes))

    def supervised(y: Tensor) -> dict[str, Any]:
        from pyrovae.semi_supervised import constraint_schedule, per_label

        weight = constraint_schedule(per_label(prediction, y), constraint_delay, constraint_warm_up)
        return {"weights": {"y": weight}}

    beneath = Beneath(spread, neighbours, vae_epochs, vae_beta, vae_validation_fraction)
    first = beneath.stages(parts)
    stage = Stage(
        model,
        classes=True,
        labels=beneath.labels(first),
        supervised=supervised,
        start=start_at_data(model.likelihood, model.prior, about.seed),
    )
    return Plan([*first, stage], pixels=parts.pixels)
