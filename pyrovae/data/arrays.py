"""Turn arrays as users store them into tensors of data and classes, and refuse what cannot be used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pyrovae.errors import InputError

Labels = Tensor | np.ndarray | Sequence[int]

_SHAPES = "(N, D), (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3"


def channels_first(array: np.ndarray, what: str) -> np.ndarray:
    """Move the channels of images in front of their height and width.

    Args:
        array: vectors `(N, D)`, which stay as they are, or images `(N, H, W)`, `(N, H, W, C)` or
            `(N, C, H, W)`, where C is 1 or 3.
        what: a name for the array, for messages.

    Returns:
        Vectors `(N, D)` or images `(N, C, H, W)`.

    Raises:
        InputError: the array has none of these shapes, or both the second and the last axis can be the
            channels.
    """
    if array.ndim == 3:
        return array[:, None]
    shape: tuple[int, ...] = array.shape
    first, last = (len(shape) == 4 and shape[axis] in {1, 3} for axis in (1, -1))
    if array.ndim != 2 and first == last:
        problem = "leaves open which axis is the channel" if first else "is not an image shape"
        raise InputError(f"{what} has shape {array.shape}, which {problem}: expected {_SHAPES}.")
    return np.moveaxis(array, -1, 1) if last else array


def as_data(array: np.ndarray, what: str) -> Tensor:
    """Convert an array to data in [0, 1]; vectors of floats keep their values.

    Args:
        array: numbers `(N, ...)`. Integers lie in 0..255 and are divided by 255, unless all are 0 or 1.
            Floats lie in [0, 1], except that vectors `(N, D)` may hold any finite value.
        what: a name for the array, for messages.

    Returns:
        A float32 tensor of the array's shape.

    Raises:
        InputError: the array is empty, does not hold numbers, or holds values that are not finite or lie
            outside of the range.
    """
    if 0 in array.shape:
        raise InputError(f"{what} is empty, of shape {array.shape}: give at least one datum.")
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"{what} has dtype {array.dtype}: save numbers (uint8, integers in 0..255, or floats)."
        )
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, which is reported below
        values = np.ascontiguousarray(array, dtype=np.float32)
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(bad.reshape(len(bad), -1).any(1).argmax())
        raise InputError(
            f"{what} holds {int(bad.sum())} NaN or infinite values, the first in row {row}: "
            "remove or replace them."
        )
    low, high, limit = float(values.min()), float(values.max()), 1
    if array.dtype.kind in "iu":
        limit = 255
    elif values.ndim == 2:
        return torch.from_numpy(values)
    if low < 0 or high > limit:
        raise InputError(
            f"{what} ({array.dtype}) lies in [{low:.9g}, {high:.9g}], expected [0, {limit}]: "
            "rescale it to floats in [0, 1], for instance divide grey levels by 255 "
            "(real-valued vectors are floats of shape (N, D))."
        )
    return torch.from_numpy(values / 255 if high > 1 else values)


def as_classes(y: Labels, what: str) -> Tensor:
    """Convert labels to classes.

    Args:
        y: whole numbers `(N,)` counted from 0.
        what: a name for the labels, for messages.

    Returns:
        An int64 tensor `(N,)` on the CPU.

    Raises:
        InputError: the labels are not whole numbers `(N,)`, there are none, or one is negative.
    """
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "biu":
        raise InputError(
            f"{what} has shape {array.shape} and dtype {array.dtype}, expected integer classes of "
            "shape (N,) counted from 0: convert the labels, or leave them out."
        )
    labels = array.astype(np.int64)
    if labels.min() < 0:
        raise InputError(
            f"{what} holds the label {labels.min()}, but classes are counted from 0: renumber "
            "them, or leave the labels out."
        )
    return torch.from_numpy(labels)
