"""Triangular matrices from their entries."""

from __future__ import annotations

import torch
from torch import Tensor


def triangle_cells(size: int, diagonal: bool = True) -> Tensor:
    """Return the positions of a lower triangle's entries in a flattened `(size, size)` matrix, row by row.

    Args:
        size: the number of rows.
        diagonal: include the entries on the diagonal.

    Examples:
        >>> triangle_cells(3)
        tensor([0, 3, 4, 6, 7, 8])
    """
    rows, columns = torch.tril_indices(size, size, 0 if diagonal else -1)
    return rows * size + columns


def lower_triangle(entries: Tensor, cells: Tensor, size: int) -> Tensor:
    """Return matrices `(*leading, size, size)` with the given entries and zeros elsewhere.

    Args:
        entries: the entries, `(*leading, len(cells))`.
        cells: their positions, as `triangle_cells` returns them.
        size: the number of rows.
    """
    flat = entries.new_zeros(*entries.shape[:-1], size * size)
    return flat.index_copy(-1, cells, entries).unflatten(-1, (size, size))
