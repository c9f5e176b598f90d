"""Turn arrays as users store them into tensors of data and classes, and refuse what cannot be used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyrovae.compute.memory import check_fits
from pyrovae.data.blocks import Blocks, InMemory
from pyrovae.data.checks import check_tensor
from pyrovae.errors import InputError

Labels = Tensor | np.ndarray | Sequence[int]

LEVELS = 255
"""The grey level of white. Grey levels are divided by it."""

_SHAPES = "(N, D), (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3"


@dataclass(eq=False)
class Values:
    """The values of an array as they are stored, before grey levels are divided by 255.

    Attributes:
        what: a name for the array, for messages.
        parts: the values of each part in float32, vectors `(n, D)` or images `(n, C, H, W)`.
        dtype: their type in the array.
        low: the least value.
        high: the largest value.
        has_fractions: whether some value is not a whole number.
    """

    what: str
    parts: list[Tensor]
    dtype: np.dtype
    low: float = math.inf
    high: float = -math.inf
    has_fractions: bool = False

    @property
    def scale(self) -> int:
        """The number that the values are divided by if nothing else is known: `LEVELS` or 1.

        Images of integers are grey levels, and so are bytes of any shape, unless all of them are 0 or 1.
        Other vectors of integers are numbers as they stand, and floats always are.
        """
        is_image = self.parts[0].dim() > 2
        can_be_levels = self.dtype == np.uint8 or (is_image and self.dtype.kind in "iu")
        return LEVELS if can_be_levels and not (self.low >= 0 and self.high <= 1) else 1

    def over(self, scale: int, levels: bool = False) -> list[Tensor]:
        """Bring the values to the scale of the training data. They are changed in place.

        Args:
            scale: the number that the training data were divided by: `LEVELS` or 1.
            levels: whether integers are grey levels by the format that they come from, such as PNG.

        Returns:
            A tensor for each part.

        Raises:
            InputError: the values lie outside of the range of data; or it is not known whether they are
                grey levels, or have been divided by 255.
        """
        divides = self._are_levels(scale, levels)
        if self.parts[0].dim() > 2 or divides or scale == LEVELS:
            self._check_range(LEVELS if divides else 1, scale)
        return [part.div_(LEVELS) for part in self.parts] if divides else self.parts

    def _are_levels(self, scale: int, levels: bool) -> bool:
        if self.dtype.kind in "iu":
            return scale == LEVELS or (levels and self.high > 1)
        if scale == 1:
            return False
        if not self.has_fractions and self.low >= 0 and self.high <= 1:
            raise InputError(
                f"{self.what} ({self.dtype}) holds 0 and 1 alone, and the training data were grey levels "
                f"in 0..{LEVELS}: 1 may be nearly black, or white. Save grey levels as integers, np.uint8, "
                f"in which white is {LEVELS}."
            )
        # The same numbers as integers, or else values that have been divided already.
        return not self.has_fractions

    def _check_range(self, limit: int, scale: int) -> None:
        if self.low >= 0 and self.high <= limit:
            return
        found = (
            f"{self.what} ({self.dtype}) lies in [{self.low:.9g}, {self.high:.9g}], expected [0, {limit}]"
        )
        if scale == 1 and self.dtype.kind in "iu":
            raise InputError(
                f"{found}, since the training data were not divided by {LEVELS}: save floats on the scale "
                f"of the training data, x / {LEVELS} if these are grey levels."
            )
        raise InputError(
            f"{found}: rescale it to floats in [0, 1], for instance divide grey levels by {LEVELS} "
            "(numbers in other units are vectors of shape (N, D))."
        )


def read_values(array: np.ndarray | Blocks, what: str, parts: Sequence[Tensor] | None = None) -> Values:
    """Read an array of data, in blocks of rows, so that little more memory is taken than by the result.

    Args:
        array: vectors `(N, D)`, or images `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`, where C is 1 or 3.
        what: a name for the array, for messages.
        parts: the rows of each part of the result, `(n,)`; every row is in one part. None means one part.

    Raises:
        InputError: the array has none of these shapes, or both the second and the last axis can be the
            channels; it is empty, does not hold numbers, has masked values, or holds values that are not
            finite; or the result is larger than the memory.
    """
    blocks = InMemory(unmasked(array, what)) if isinstance(array, np.ndarray) else array
    shape, channels_last = check_array(blocks, what)
    check_fits(
        4 * math.prod(shape), what, "give fewer data, or a Dataset, which pyrovae.fit reads in parts"
    )
    parts = [torch.arange(shape[0])] if parts is None else parts
    found = Values(what, [torch.empty(len(rows), *shape[1:]) for rows in parts], blocks.dtype)
    _fill(found, parts, blocks, channels_last)
    return found


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
        raise InputError(f"{what} has dtype {array.dtype}: save numbers, integers or floats.")
    if len(shape) == 3:
        return (shape[0], 1, *shape[1:]), False
    return ((shape[0], shape[3], *shape[1:3]) if last else shape), last


def _fill(found: Values, parts: Sequence[Tensor], blocks: Blocks, channels_last: bool) -> None:
    """Write each block of rows into the parts that they belong to, and note the range of the values.

    Raises:
        InputError: values are not finite.
    """
    part_of = np.zeros(blocks.shape[0], dtype=np.uint8)
    place = np.zeros(blocks.shape[0], dtype=np.int64)
    for number, rows in enumerate(parts):
        part_of[rows.numpy()], place[rows.numpy()] = number, np.arange(len(rows))
    start, bad, first_bad = 0, 0, -1
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
        found.low, found.high = min(found.low, float(values.min())), max(found.high, float(values.max()))
        if blocks.dtype.kind == "f" and not found.has_fractions:
            found.has_fractions = bool((values != np.rint(values)).any())
        for number, part in enumerate(found.parts):
            mine = part_of[here] == number
            part.numpy()[place[here][mine]] = values[mine]
        start = here.stop
    if bad:
        raise InputError(
            f"{found.what} holds {bad} NaN or infinite values as 32-bit floats, the first in row "
            f"{first_bad}: remove or replace them. In Python, VAETransformer takes NaN for missing values."
        )


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


def as_names(array: np.ndarray, what: str) -> tuple[str, ...]:
    """Convert an array of text to the names of classes, or of columns.

    Args:
        array: the names of the classes or columns 0, 1, ..., `(C,)`.
        what: a name for the array, for messages.

    Raises:
        InputError: the array is not text `(C,)`.
    """
    if array.ndim != 1 or array.dtype.kind != "U":
        raise InputError(
            f"{what} has shape {array.shape} and dtype {array.dtype}, expected text of shape (C,), the "
            f"names of the {'columns' if 'column' in what else 'classes'} 0, 1, ...: convert them by "
            "np.array(names, dtype=str)."
        )
    return tuple(map(str, array))
