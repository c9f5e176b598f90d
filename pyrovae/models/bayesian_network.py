"""The Bayesian neural network (Blundell et al. 2015): a classifier whose weights are latents.

    w ~ p(w)                            the prior over all weights of the network, (P,)
    for each datum n in plate `data` (N)
        y_n ~ Cat(softmax(f(x_n; w)))   the class, by a network f with the weights w
    guide
        w ~ q(w)                        the posterior, the same for all data

The weights are reparameterised like the latents of a VAE. They lie outside of the data's plate, so `fit`
counts them B/N in a minibatch of B of N data. A class is predicted by the mean of its probabilities over
draws of w (`pyrovae.evaluation.class_probabilities`).
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.networks import WithWeights
from pyrovae.programs.parameters import program


class BayesianNetwork(nn.Module):
    """The Bayesian neural network of a network, a prior and a posterior over its weights.

    Args:
        network: `network(x, w)` gives the logits of the classes, `(B, C)`, for weights w `(P,)`.
        prior: `prior()` is a distribution over w.
        posterior: `posterior()` is a distribution over w.

    Examples:
        >>> from pyrovae.models import BayesianNetwork
        >>> from pyrovae.networks import MLP, WithWeights
        >>> from pyrovae.posteriors import FreeNormal
        >>> from pyrovae.priors import IndependentNormal
        >>> network = WithWeights(MLP((1, 8, 8), 10, hidden=(16,)))
        >>> w = network.initial_weights()
        >>> bnn = BayesianNetwork(network, IndependentNormal(len(w), 0.1), FreeNormal(w, 0.02))
    """

    def __init__(self, network: WithWeights, prior: nn.Module, posterior: nn.Module) -> None:
        super().__init__()
        self.network, self.prior, self.posterior = network, prior, posterior

    @program
    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """Define p(w) p(y | x, w) for data `(B, *x_shape)` and their classes `(B,)`."""
        w = pyro.sample("w", self.prior())
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=self.network(x, w)), obs=y)

    @program
    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """Define q(w). It depends on no datum."""
        pyro.sample("w", self.posterior())
