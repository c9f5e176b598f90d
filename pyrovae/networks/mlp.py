"""The multi-layer perceptron."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn

from pyrovae.networks.shapes import Shape, as_shape, check_event


class MLP(nn.Module):
    """A multi-layer perceptron. Without hidden layers it is an affine map.

    Args:
        in_shape: the event shape of the input, such as `(1, 28, 28)` or `784`.
        out_shape: the event shape of the output.
        hidden: the widths of the hidden layers.
        activation: builds the activation function that follows each hidden layer.

    Examples:
        >>> import torch
        >>> from pyrovae.networks import MLP
        >>> network = MLP((1, 28, 28), 10, hidden=(64,))
        >>> network(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        hidden: Sequence[int] = (500, 500),
        activation: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = as_shape(in_shape), as_shape(out_shape)
        widths = [math.prod(self.in_shape), *hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), activation()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], math.prod(self.out_shape)))

    @property
    def output_layer(self) -> nn.Linear:
        """The last layer, an affine map."""
        return cast(nn.Linear, self.layers[-1])

    @property
    def output_bias(self) -> Tensor:
        """The bias of the last layer, `(prod(out_shape),)`."""
        return self.output_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map `(*leading, *in_shape)` to `(*leading, *out_shape)`.

        Raises:
            InputError: when the last dimensions of `x` are not `in_shape`.
        """
        check_event(x, self.in_shape)
        return self.layers(x.flatten(-len(self.in_shape))).unflatten(-1, self.out_shape)
