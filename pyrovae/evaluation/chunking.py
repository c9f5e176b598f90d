"""Split data and particles into chunks that fit into cache and memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pyrovae.programs.layout import Layout

_CPU_ROWS, _CPU_MEMORY = 2_000, 2**28  # rows that stay in the cache; bytes
_CUDA_ROWS = 200_000
_LAYERS = 16  # the memory of one pass through the networks, as a multiple of a datum's


def particles_at_once(x: Tensor, layout: Layout) -> int:
    """Return the number of particles that pass through the networks together, at least 1.

    The particles of the data `(B, *x_shape)` fit into the cache (CPU) or into a quarter of the free memory
    (CUDA).
    """
    if x.is_cuda:
        most, memory = _CUDA_ROWS, torch.cuda.mem_get_info(x.device)[0] // 4
    else:
        most, memory = _CPU_ROWS, _CPU_MEMORY
    rows = min(most, memory // (_LAYERS * max(1, x[0].nbytes)))
    return max(1, rows // (len(x) * (layout.values or 1)))


def slices(total: int, size: int) -> Iterator[slice]:
    """Return slices of at most `size` that cover `range(total)` in order."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
