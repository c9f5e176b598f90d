"""Event shapes: what a network accepts and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from pyrovae.errors import InputError

Shape = int | Sequence[int]
"""An event shape, such as `(1, 28, 28)`. The number 784 stands for the shape `(784,)`."""


class HasOutShape(Protocol):
    """A network that declares the event shape of its output."""

    out_shape: Shape


class HasOutputBias(Protocol):
    """A network whose last layer has a bias: one number for each output, or one for each output channel."""

    @property
    def output_bias(self) -> Tensor | None:
        """The bias of the last layer, or None if there is no single one."""


def as_shape(shape: Shape) -> tuple[int, ...]:
    """Return an event shape as a tuple.

    Examples:
        >>> as_shape(784)
        (784,)
        >>> as_shape([1, 28, 28])
        (1, 28, 28)
    """
    return (shape,) if isinstance(shape, int) else tuple(shape)


def out_shape_of(network: nn.Module | HasOutShape) -> tuple[int, ...]:
    """Return the event shape of a network's output.

    Raises:
        InputError: when the network has no attribute `out_shape`.

    Examples:
        >>> from pyrovae.networks import MLP
        >>> out_shape_of(MLP(2, (1, 4, 4)))
        (1, 4, 4)
    """
    shape: Shape | None = getattr(network, "out_shape", None)
    if shape is None:
        raise InputError(
            f"the {type(network).__name__} does not say what shape its output has: use a network of "
            "pyrovae.networks, or set the attribute, such as network.out_shape = (128,)."
        )
    return as_shape(shape)


def features_of(network: nn.Module | HasOutShape) -> int:
    """Return the number of features F of a network whose output is a vector, `(F,)`.

    Raises:
        InputError: when the network has no `out_shape`, or one that is not `(F,)`.
    """
    shape = out_shape_of(network)
    if len(shape) != 1:
        raise InputError(
            f"the {type(network).__name__} has an output of shape {shape}; expected a vector of features, "
            "(F,): build the network with out_shape=F."
        )
    return shape[0]


def output_bias_of(network: nn.Module | HasOutputBias) -> Tensor | None:
    """Return the bias of a network's last layer, or None when the network declares none."""
    # By getattr, as isinstance with a protocol does not find the parameters of a module.
    bias = getattr(network, "output_bias", None)
    return bias if isinstance(bias, Tensor) else None


def check_event(x: Tensor, in_shape: tuple[int, ...]) -> None:
    """Check that the last dimensions of `x` are the event shape that a network accepts.

    Raises:
        InputError: when they differ.
    """
    if tuple(x.shape[-len(in_shape) :]) != in_shape:
        raise InputError(
            f"the network expects data of shape (*, {', '.join(map(str, in_shape))}), but the data have "
            f"shape {tuple(x.shape)}: reshape the data, or build the network for their shape."
        )
