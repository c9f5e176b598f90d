"""What all evaluations do: take some of the data at a time, refuse pairs without per-datum densities, and
write numbers down."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pyrovae.programs.checks import check_pair
from pyrovae.programs.log_weights import Layout, layout_of
from pyrovae.programs.pair import ModelAndGuide

_CPU_ROWS, _CPU_MEMORY = 2_000, 2**28  # what stays in the cache, and bytes
_CUDA_ROWS = 200_000
_LAYERS = 16  # times a datum's size: what its pass through the networks may take


def particles_at_once(x: Tensor, layout: Layout) -> int:
    """How many particles of the data `(B, *x_shape)` pass through the networks together, as cache and
    memory allow: one at least."""
    if x.is_cuda:
        most, memory = _CUDA_ROWS, torch.cuda.mem_get_info(x.device)[0] // 4
    else:
        most, memory = _CPU_ROWS, _CPU_MEMORY
    rows = min(most, memory // (_LAYERS * max(1, x[0].nbytes)))
    return max(1, rows // (len(x) * (layout.values or 1)))


def part_of(rows: slice | Tensor, device: torch.device, x: Tensor, y: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(values[rows].to(device) for values in (x, y) if values is not None)


def slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def check_scorable(
    pair: ModelAndGuide, device: torch.device, x: Tensor, y: Tensor | None, enumerate: bool
) -> Layout:
    """Refuse a pair that has no per-datum evidence; return how its log densities are laid out."""
    # Two numbers of data, since a plate of something else may have the size of one by chance.
    for num_data in (2, 3):
        args = part_of(torch.arange(num_data) % len(x), device, x, y)
        check_pair(pair, *args)
        layout = layout_of(pair, args, enumerate)
    return layout


def without_nan(content: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
