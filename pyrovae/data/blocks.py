"""Arrays that are read in blocks of rows, so that loading takes little more memory than its result."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np

_VALUES = 2**19  # in a block


class Blocks(Protocol):
    """An array `(N, ...)` whose rows are read in order."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """The type of the values."""
        ...

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield consecutive rows, `(n, ...)`, until all N have been read."""
        ...


class InMemory:
    """The blocks of an array in memory."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield consecutive rows, `(n, ...)`, until all N have been read."""
        rows = rows_at_once(self.shape)
        return (self.array[start : start + rows] for start in range(0, len(self.array), rows))


def rows_at_once(shape: tuple[int, ...]) -> int:
    """Return the number of rows of about half a million values, at least 1."""
    return max(1, _VALUES // max(1, math.prod(shape[1:])))


def whole(array: np.ndarray | Blocks) -> np.ndarray:
    """Return all rows in memory."""
    if isinstance(array, np.ndarray):
        return array
    none = np.empty((0, *array.shape[1:]), array.dtype)  # for an array without rows
    return np.concatenate([none, *array.blocks()])
