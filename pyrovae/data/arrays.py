"""Turn arrays as users store them into tensors of data and classes, and refuse what cannot be used."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pyrovae.compute.memory import check_fits
from pyrovae.data.blocks import Blocks, InMemory
from pyrovae.data.checks import check_tensor
from pyrovae.errors import InputError

Labels = Tensor | np.ndarray | Sequence[int]

_SHAPES = "(N, D), (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3"


def as_data(array: np.ndarray | Blocks, what: str, parts: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Convert an array to data in [0, 1]; vectors of floats keep their values.

    The array is read in blocks of rows, so that not much more memory is taken than by the result.

    Args:
        array: vectors `(N, D)`, or images `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`, where C is 1 or 3.
            Integers lie in 0..255 and are divided by 255, unless all are 0 or 1. Floats lie in [0, 1],
            except that vectors may hold any finite value.
        what: a name for the array, for messages.
        parts: the rows of each part of the result, `(n,)`; every row is in one part. None means one part.

    Returns:
        A float32 tensor for each part, of vectors `(n, D)` or images `(n, C, H, W)`.

    Raises:
        InputError: the array has none of these shapes, or both the second and the last axis can be the
            channels; it is empty, does not hold numbers, has masked values, or holds values that are not
            finite or lie outside of the range; or the result is larger than the memory.
    """
    blocks = InMemory(unmasked(array, what)) if isinstance(array, np.ndarray) else array
    shape, channels_last = check_array(blocks, what)
    check_fits(
        4 * math.prod(shape), what, "give fewer data, or a Dataset, which pyrovae.fit reads in parts"
    )
    parts = [torch.arange(shape[0])] if parts is None else parts
    found = [torch.empty(len(rows), *shape[1:]) for rows in parts]
    low, high = _fill(found, parts, blocks, what, channels_last)
    limit = 255 if blocks.dtype.kind in "iu" else math.inf if len(shape) == 2 else 1
    if limit < math.inf and (low < 0 or high > limit):
        raise InputError(
            f"{what} ({blocks.dtype}) lies in [{low:.9g}, {high:.9g}], expected [0, {limit}]: "
            "rescale it to floats in [0, 1], for instance divide grey levels by 255 "
            "(real-valued vectors are floats of shape (N, D))."
        )
    return [part.div_(255) for part in found] if limit == 255 and high > 1 else found


def check_array(array: np.ndarray | Blocks, what: str) -> tuple[tuple[int, ...], bool]:
    """Refuse an array whose shape or type is not that of data.

    Args:
        array: the array, whose values are not read.
        what: a name for the array, for messages.

    Returns:
        The shape with the channels of images before their height and width, and whether the array has them
        last.

    Raises:
        InputError: the array is empty, holds no numbers, or is neither vectors nor images.
    """
    shape = array.shape
    first, last = (len(shape) == 4 and shape[axis] in {1, 3} for axis in (1, -1))
    if len(shape) not in (2, 3) and first == last:
        problem = "leaves open which axis is the channel" if first else "is not an image shape"
        raise InputError(f"{what} has shape {shape}, which {problem}: expected {_SHAPES}.")
    if 0 in shape:
        raise InputError(f"{what} is empty, of shape {shape}: give at least one datum.")
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"{what} has dtype {array.dtype}: save numbers (uint8, integers in 0..255, or floats)."
        )
    if len(shape) == 3:
        return (shape[0], 1, *shape[1:]), False
    return ((shape[0], shape[3], *shape[1:3]) if last else shape), last


def _fill(
    found: list[Tensor], parts: Sequence[Tensor], blocks: Blocks, what: str, channels_last: bool
) -> tuple[float, float]:
    """Write each block of rows into the parts that they belong to. Return the least and the largest value.

    Raises:
        InputError: values are not finite.
    """
    part_of = np.zeros(blocks.shape[0], dtype=np.uint8)
    place = np.zeros(blocks.shape[0], dtype=np.int64)
    for number, rows in enumerate(parts):
        part_of[rows.numpy()], place[rows.numpy()] = number, np.arange(len(rows))
    low, high, start, bad, first_bad = math.inf, -math.inf, 0, 0, -1
    for block in blocks.blocks():
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, which is reported below
            values = np.asarray(block, dtype=np.float32)
        values = np.moveaxis(values, -1, 1) if channels_last else values
        values = values[:, None] if values.ndim == 3 else values
        here = slice(start, start + len(values))
        if wrong := int(values.size - np.isfinite(values).sum()):
            bad_rows = ~np.isfinite(values.reshape(len(values), -1)).all(1)
            first_bad = start + int(bad_rows.argmax()) if first_bad < 0 else first_bad
        bad += wrong
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        for number, part in enumerate(found):
            mine = part_of[here] == number
            part.numpy()[place[here][mine]] = values[mine]
        start = here.stop
    if bad:
        raise InputError(
            f"{what} holds {bad} NaN or infinite values as 32-bit floats, the first in row {first_bad}: "
            "remove or replace them."
        )
    return low, high


def unmasked(array: np.ndarray, what: str) -> np.ndarray:
    """Return an array without its mask, which no value may be under.

    Raises:
        InputError: the array is a masked array with masked values.
    """
    if not isinstance(array, np.ma.MaskedArray):
        return array
    if hidden := int(np.ma.getmaskarray(array).sum()):
        raise InputError(
            f"{what} is a masked array, {hidden} of whose {array.size} values are masked: leave out the "
            "data with masked values, or fill these in with array.filled(value)."
        )
    return array.data


def as_classes(y: Labels, what: str) -> Tensor:
    """Convert labels to classes.

    Args:
        y: whole numbers `(N,)` counted from 0, of any integer type.
        what: a name for the labels, for messages.

    Returns:
        An int64 tensor `(N,)` on the CPU.

    Raises:
        InputError: the labels are not whole numbers `(N,)`, there are none, one is negative, masked, or
            does not fit into 64 bits.
    """
    if isinstance(y, Tensor):
        check_tensor(y)
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else unmasked(np.asanyarray(y), what)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "biu":
        raise InputError(
            f"{what} has shape {array.shape} and dtype {array.dtype}, expected integer classes of "
            "shape (N,) counted from 0: convert the labels, or leave them out."
        )
    for label in (int(array.min()), int(array.max())):
        if not 0 <= label < 2**63:
            raise InputError(
                f"{what} holds the label {label}, but classes are counted from 0: renumber "
                "them, or leave the labels out."
            )
    return torch.from_numpy(array.astype(np.int64))
