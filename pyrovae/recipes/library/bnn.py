"""The recipe of the Bayesian neural network."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Gt

from pyrovae.recipes.about import About
from pyrovae.recipes.components import Count, Network, Parts
from pyrovae.recipes.library.beneath import check_classes
from pyrovae.recipes.plan import Plan, Stage
from pyrovae.recipes.recipe import recipe

Scale = Annotated[float, Gt(0)]


@recipe(classes=True, needs_classes=True, batch_size=128, learning_rate=1e-3, validation_fraction=0.0)
def bnn(
    about: About,
    *,
    network: Network = "mlp",
    width: Count = 400,
    prior_scale: Scale = 0.1,
    start_scale: Scale = 0.02,
    **of_components: Any,
) -> Plan:
    """Bayesian neural network: w ~ N(0, s^2 I), y ~ Cat(softmax(f(x; w))), a classifier.

    Args:
        network: The network f.
        width: The width of hidden layers. A convolutional network begins with an eighth as many channels.
        prior_scale: The standard deviation s of each weight under the prior.
        start_scale: The standard deviation of each weight under the posterior at the start.
    """
    from pyrovae.models import BayesianNetwork
    from pyrovae.networks import WithWeights
    from pyrovae.posteriors import FreeNormal
    from pyrovae.priors import IndependentNormal

    check_classes("bnn", about.num_classes)
    f = WithWeights(
        Parts(about, network=network, width=width, options=of_components).encoder(about.num_classes)
    )
    w = f.initial_weights()
    model = BayesianNetwork(f, IndependentNormal(len(w), prior_scale), FreeNormal(w, start_scale))
    return Plan([Stage(model, classes=True, needs_classes=True)])
