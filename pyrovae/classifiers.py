"""Classifiers: modules whose `forward(x)` or `forward(z)` returns a distribution over the class `y`."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.networks import MLP, Shape, features_of


class Classifier(nn.Module):
    """Cat(y; softmax(network(context))) over the classes 0, 1, ..., C - 1. The context is x or z.

    Args:
        network: maps the context to logits, `(C,)`. It declares its `out_shape`.

    Raises:
        InputError: when the `out_shape` of the network is missing or not `(C,)`.

    Examples:
        >>> import torch
        >>> from pyrovae.classifiers import Classifier
        >>> from pyrovae.networks import MLP
        >>> classifier = Classifier(MLP((1, 8, 8), 10))
        >>> classifier(torch.zeros(5, 1, 8, 8)).probs.shape
        torch.Size([5, 10])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.num_classes = features_of(network)

    def forward(self, context: Tensor) -> TorchDistributionMixin:
        """Return the distribution over y, with batch shape `leading` and event shape `()`.

        Args:
            context: x or z, `(*leading, *in_shape)`.
        """
        return dist.Categorical(logits=self.network(context))


class LinearClassifier(Classifier):
    """Logistic regression, Cat(y; softmax(W context + b)).

    Args:
        in_shape: the event shape of the context.
        num_classes: the number of classes C.

    Examples:
        >>> import torch
        >>> from pyrovae.classifiers import LinearClassifier
        >>> classifier = LinearClassifier(2, num_classes=10)
        >>> classifier(torch.zeros(5, 2)).probs.shape
        torch.Size([5, 10])
    """

    def __init__(self, in_shape: Shape, num_classes: int) -> None:
        super().__init__(MLP(in_shape, num_classes, hidden=()))
