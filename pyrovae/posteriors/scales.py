"""Standard deviations from the outputs of a network."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def positive(number: Tensor) -> Tensor:
    """Map any number to a standard deviation: softplus(number) + 1e-4.

    The floor of 1e-4 keeps a posterior that collapses onto a point from a division by zero.
    """
    return functional.softplus(number) + 1e-4
