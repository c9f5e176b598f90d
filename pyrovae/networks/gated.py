"""The multi-layer perceptron with gated layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from pyrovae.networks.shapes import Shape, as_shape, check_event


class GatedMLP(nn.Module):
    """Gated layers h = (W x + b) * sigmoid(V x + c), followed by an affine map.

    The layers are those of Dauphin et al. (2017), as Tomczak & Welling (2018) use them. Where its gate is
    open, a unit is linear, and gradients pass through it undiminished.

    Args:
        in_shape: the event shape of the input.
        out_shape: the event shape of the output.
        hidden: the widths of the gated layers.
        gated_output: make the last layer a gated layer too. Use it for features that go into affine heads,
            where an affine map at the end would add nothing.

    Examples:
        >>> import torch
        >>> from pyrovae.networks import GatedMLP
        >>> network = GatedMLP((1, 28, 28), 64, hidden=(64,), gated_output=True)
        >>> network(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 64])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        hidden: Sequence[int] = (300, 300),
        gated_output: bool = False,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = as_shape(in_shape), as_shape(out_shape)
        widths = [math.prod(self.in_shape), *hidden]
        out = math.prod(self.out_shape)
        layers = [_gated_layer(before, after) for before, after in itertools.pairwise(widths)]
        last = _gated_layer(widths[-1], out) if gated_output else nn.Linear(widths[-1], out)
        self.layers = nn.Sequential(*layers, last)

    @property
    def output_bias(self) -> Tensor | None:
        """The bias of the last layer, `(prod(out_shape),)`, or None if the output is gated."""
        last = self.layers[-1]
        return last.bias if isinstance(last, nn.Linear) else None

    def forward(self, x: Tensor) -> Tensor:
        """Map `(*leading, *in_shape)` to `(*leading, *out_shape)`.

        Raises:
            InputError: when the last dimensions of `x` are not `in_shape`.
        """
        check_event(x, self.in_shape)
        return self.layers(x.flatten(-len(self.in_shape))).unflatten(-1, self.out_shape)


def _gated_layer(before: int, after: int) -> nn.Sequential:
    """Return a gated layer. It computes W x + b and V x + c in one product, and `nn.GLU` combines them."""
    both = nn.Linear(before, 2 * after)
    # The scale of He et al. for a ReLU: the gates, which are about 0.5, shrink their input as a ReLU does.
    nn.init.kaiming_normal_(both.weight, nonlinearity="relu")
    return nn.Sequential(both, nn.GLU())
