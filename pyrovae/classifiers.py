"""Classifiers: modules whose `forward(x)` (or `forward(z)`) returns a distribution over the class `y`."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.networks import MLP, Shape, features_of


class Classifier(nn.Module):
    """Cat(y; softmax(network(context))), over the classes 0, 1, ..., C - 1.

    Args:
        network: context -> logits, of output shape `(C,)`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.num_classes = features_of(network)

    def forward(self, context: Tensor) -> TorchDistributionMixin:
        """For a context of shape `(*leading, *in_shape)`: batch shape `leading`, event shape `()`."""
        return dist.Categorical(logits=self.network(context))


class LinearClassifier(Classifier):
    """Logistic regression, Cat(y; softmax(W context + b)).

    Args:
        in_shape: event shape of the context.
        num_classes: C.
    """

    def __init__(self, in_shape: Shape, num_classes: int) -> None:
        super().__init__(MLP(in_shape, num_classes, hidden=()))
