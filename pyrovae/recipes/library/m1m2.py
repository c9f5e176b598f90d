"""The recipe of M1+M2."""

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
def m1m2(
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
    """M1+M2, an M2 on the latents of a VAE: y, z2, z1 ~ p(z1 | y, z2), x ~ p(x | z1).

    The VAE (M1) is trained first, then M2 on draws of its latents.

    Args:
        latent_dim: The number of dimensions of z1, and of z2.
        likelihood: The likelihood p(x | z1).
        posterior: The posterior q(z1 | x).
        prior: The prior p(z1) of M1.
        network: The network of encoder and decoder.
        width: The width of hidden layers. A convolutional network begins with an eighth as many channels.
        learn_class_prior: Whether the class prior p(y) is learned. Otherwise it is uniform.
        alpha: The weight of the mean of log q(y | z1) over the labelled data.
        spread: Whether labels spread over the latents of M1 before M2 learns them.
        neighbours: The number of neighbours of each datum in the graph along which labels spread.
        vae_epochs: The number of passes through the data in the training of M1.
        vae_beta: The weight of the KL term in the training of M1.
        vae_validation_fraction: The share of the training data that chooses the best epoch of M1.
    """
    from pyrovae.classifiers import Classifier
    from pyrovae.models import M1M2, M2, VAE
    from pyrovae.networks import MLP
    from pyrovae.posteriors import DiagonalNormal
    from pyrovae.priors import Classes, StandardNormal

    check_classes("m1m2", about.num_classes)
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
    m1 = VAE(parts.make_prior(q), parts.make_likelihood(parts.decoder(latent_dim)), q)
    upper = M2(
        Classes(about.num_classes, learn_class_prior),
        StandardNormal(latent_dim),
        DiagonalNormal(parts.beside_class(latent_dim), latent_dim),
        Classifier(MLP(latent_dim, about.num_classes, hidden=(width,))),
        DiagonalNormal(parts.beside_class(latent_dim), latent_dim),
    )
    model = M1M2(m1, upper)

    def supervised(y: Tensor) -> dict[str, Any]:
        from pyrovae.objectives import SupervisedELBO
        from pyrovae.semi_supervised import per_label

        return {"objective": SupervisedELBO(per_label(alpha, y))}

    beneath = Beneath(spread, neighbours, vae_epochs, vae_beta, vae_validation_fraction)
    first = beneath.stage(Stage(m1, start=start_at_data(m1.likelihood, m1.prior, about.seed)))
    stage = Stage(
        upper, classes=True, labels=beneath.labels([first]), supervised=supervised, transform=model.draw_z1
    )
    return Plan([first, stage], pair=model, pixels=parts.pixels)
