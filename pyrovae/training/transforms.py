"""Transforms of minibatches: functions from data `(B, *x_shape)` to data."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor

Transform = Callable[[Tensor], Tensor]


def in_turn(*transforms: Transform) -> Transform | None:
    """Return one transform that applies the given ones one after the other; None if none is given."""
    if not transforms:
        return None
    return lambda x: functools.reduce(lambda x, step: step(x), transforms, x)
