"""The Bayesian neural network (Blundell et al. 2015): a classifier whose weights are latents.

    w ~ p(w)                            the prior over all weights of the network, (P,)
    for each datum n in plate `data` (N)
        y_n ~ Cat(softmax(f(x_n; w)))   the class, by a network f with the weights w
    guide
        w ~ q(w)                        the posterior, one for all data

The weights lie outside of the data's plate, so in a minibatch of B data they count B/N. A class is
predicted by the mean of its probabilities over draws of w.
"""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.errors import InputError
from pyrovae.programs.parameters import program


class BayesianNetwork(nn.Module):
    """The Bayesian neural network of a network, a prior and a posterior over its weights.

    Args:
        network: `network(x, w)` is a distribution over y, for weights w `(P,)`.
        prior: `prior()` is a distribution over w.
        posterior: `posterior()` is a distribution over w.

    Examples:
        >>> from pyrovae.models.bayesian_network import (
        ...     BayesianNetwork, NetworkOfWeights, NormalWeights, ScaleMixture)
        >>> from pyrovae.networks import MLP
        >>> network = NetworkOfWeights(MLP((1, 8, 8), 10, hidden=(16,)))
        >>> bnn = BayesianNetwork(network, ScaleMixture(network.size), NormalWeights(network.initial))
    """

    def __init__(self, network: nn.Module, prior: nn.Module, posterior: nn.Module) -> None:
        super().__init__()
        self.network, self.prior, self.posterior = network, prior, posterior

    @program
    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """Define p(w) p(y | x, w) for data `(B, *x_shape)` and their classes `(B,)`."""
        w = pyro.sample("w", self.prior())
        with pyro.plate("data", len(x)):
            pyro.sample("y", self.network(x, w), obs=y)

    @program
    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """Define q(w), which depends on no datum."""
        pyro.sample("w", self.posterior())


class NetworkOfWeights(nn.Module):
    """Cat(y; softmax(f(x; w))) by a network whose weights are given as one vector.

    Args:
        network: maps x to logits, `(C,)`. Its own parameters are frozen: they give the start.

    Attributes:
        initial: the network's own weights, `(P,)`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        shapes = {name: value.shape for name, value in network.named_parameters()}
        self._shapes = shapes

    @property
    def initial(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.network.parameters())

    def forward(self, x: Tensor, w: Tensor) -> TorchDistributionMixin:
        parts = w.split([shape.numel() for shape in self._shapes.values()])
        weights = {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts)}
        return dist.Categorical(logits=torch.func.functional_call(self.network, weights, (x,)))


class NormalWeights(nn.Module):
    def __init__(self, initial: Tensor, scale: float = 0.01) -> None:
        super().__init__()
        self.loc = nn.Parameter(initial.clone())
        self.log_scale = nn.Parameter(torch.full_like(initial, scale).log())

    def forward(self):
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)


class NormalPrior(nn.Module):
    def __init__(self, size, scale=0.1):
        super().__init__()
        self.size = size
        self.scale = scale

    def forward(self):
        return dist.Normal(torch.zeros(self.size), self.scale).to_event(1)


class ScaleMixture(nn.Module):
    def __init__(self, size: int, share: float = 0.5, wide: float = 1.0, narrow: float = 0.0025) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("probs", torch.tensor([share, 1 - share]))
        self.register_buffer("scales", torch.tensor([wide, narrow]))

    def forward(self):
        parts = dist.Normal(torch.zeros_like(self.scales), self.scales)
        each = dist.MixtureSameFamily(dist.Categorical(self.probs), parts)
        return each.expand((self.size,)).to_event(1)
