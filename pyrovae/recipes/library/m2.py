"""The recipe of M2."""

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
def m2(
    about: About,
    *,
    latent_dim: Count = 20,
    likelihood: Likelihood = "auto",
    posterior: Posterior = "normal",
    prior: Prior = "normal",
    network: Network = "mlp",
    width: Count = 256,
    learn_class_prior: bool = False,
    alpha: Weight = 25.0,
    spread: bool = True,
    neighbours: Count = 7,
    vae_epochs: Count = 50,
    vae_beta: Weight = 0.1,
    vae_validation_fraction: Share = 0.0,
    **of_components: Any,
) -> Plan:
    """M2, a VAE with a class beside z: y ~ Cat(pi), x ~ p(x | y, z).

    Args:
        latent_dim: The number of dimensions of z.
        likelihood: The likelihood p(x | y, z).
        posterior: The posterior q(z | x, y).
        prior: The prior p(z).
        network: The network of encoder and decoder.
        width: The width of hidden layers. A convolutional network begins with an eighth as many channels.
        learn_class_prior: Whether the class prior p(y) is learned. Otherwise it is uniform.
        alpha: The weight of the mean of log q(y | x) over the labelled data.
        spread: Whether labels first spread to unlabelled data, over the latents of a VAE that is trained
            before the model.
        neighbours: The number of neighbours of each datum in the graph along which labels spread.
        vae_epochs: The number of passes through the data in the training of the VAE for spreading.
        vae_beta: The weight of the KL term in the training of the VAE for spreading.
        vae_validation_fraction: The share of the training data that chooses the best epoch of the VAE for
            spreading.
    """
    from pyrovae.classifiers import Classifier
    from pyrovae.models import M2
    from pyrovae.networks import WithClass
    from pyrovae.priors import Classes

    check_classes("m2", about.num_classes)
    classes = about.num_classes
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
    classifier = Classifier(parts.encoder(classes))
    q = parts.make_posterior(parts.beside_class(width, parts.features()))
    p = parts.make_prior(q, classes)
    decoder = WithClass(parts.decoder(latent_dim + classes), classes)
    model = M2(Classes(classes, learn_class_prior), p, parts.make_likelihood(decoder), classifier, q)

    def supervised(y: Tensor) -> dict[str, Any]:
        from pyrovae.objectives import SupervisedELBO
        from pyrovae.semi_supervised import per_label

        return {"objective": SupervisedELBO(per_label(alpha, y))}

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
