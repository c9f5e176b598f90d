"""Split data and particles into chunks that fit into cache and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from pyrovae.compute import processes
from pyrovae.compute.memory import is_out_of_memory
from pyrovae.compute.turns import give_way
from pyrovae.programs.layout import Layout

T = TypeVar("T")

MOST_DATA = 100  # data that are evaluated at once on a CPU, at most

_CPU_ROWS, _CPU_MEMORY = 2_000, 2**28  # rows that stay in the cache; bytes
_CUDA_ROWS = 200_000
_CUDA_DATA = 1_000  # each part of the data costs some hundred calls of kernels
_LAYERS = 16  # the memory of one pass through the networks, as a multiple of a datum's


def particles_at_once(x: Tensor, layout: Layout) -> int:
    """Return the number of particles that pass through the networks together, at least 1.

    The particles of the data `(B, *x_shape)` fit into the cache (CPU) or into a quarter of the free memory
    (CUDA).
    """
    return max(1, _rows_at_once(x, x.device) // (len(x) * (layout.values or 1)))


def data_at_once(x: Tensor, device: torch.device) -> int:
    """Return the number of data that are evaluated together on a device, at least 1.

    Args:
        x: the data, `(N, *x_shape)`, on any device.
        device: the device of the pair.
    """
    if device.type != "cuda":
        return MOST_DATA
    return max(1, min(_CUDA_DATA, _rows_at_once(x, device)))


def _rows_at_once(x: Tensor, device: torch.device) -> int:
    if device.type == "cuda":
        most, memory = _CUDA_ROWS, _free_memory(device) // 4
    else:
        most, memory = _CPU_ROWS, _CPU_MEMORY
    return min(most, memory // (_LAYERS * max(1, x[:1].nbytes)))


def _free_memory(device: torch.device) -> int:
    """Return the bytes of a GPU that no tensor holds, also those that torch keeps for further tensors."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def slices(total: int, size: int) -> Iterator[slice]:
    """Return slices of at most `size` that cover `range(total)` in order."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def in_turns(chunks: Iterable[T]) -> Iterator[T]:
    """Yield the chunks of an evaluation, and let threads that wait have their turns before each."""
    for chunk in chunks:
        _give_way()
        yield chunk


def _give_way() -> None:
    if processes.count() == 1:  # processes must make the same calls in the same order
        give_way()


def in_chunks(call: Callable[[slice], T], total: int, size: int, least: int = 1) -> tuple[list[T], int]:
    """Call a function for chunks that cover `range(total)` in order. Halve what memory does not hold.

    Threads that wait have their turns before each chunk.

    Args:
        call: the function.
        total: the number of rows, or of draws.
        size: the largest size of a chunk.
        least: the smallest size to which a chunk is halved.

    Returns:
        The results, and the size of the largest chunks that fit.

    Raises:
        InputError, RuntimeError and others: what the function raises, also for a chunk of the least
            size.
    """
    results: list[T] = []
    start = 0
    while start < total:
        chunk = slice(start, min(start + size, total))
        _give_way()
        try:
            results.append(call(chunk))
        except Exception as error:
            if chunk.stop - start <= least or not is_out_of_memory(error):
                raise
            size = max(least, (chunk.stop - start) // 2)
            continue
        start = chunk.stop
    return results, size
