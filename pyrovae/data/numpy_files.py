"""Read a user's own NumPy files, `.npz` and `.npy`. No code in a file is ever run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyrovae.data.arrays import channels_first
from pyrovae.errors import InputError, cause

SUFFIXES = (".npz", ".npy")

_KEYS = ("x_train", "y_train", "x_test", "y_test", "x", "y")


def read_numpy_file(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a NumPy file.

    Args:
        path: a `.npz` file with `x_train` and `x_test` (and `y_train`, `y_test`), or with `x` (and `y`);
            or a `.npy` file, whose array becomes `x`.

    Returns:
        The arrays by these names. Images are `(N, C, H, W)`, vectors `(N, D)`.

    Raises:
        InputError: the file is damaged, holds Python objects, lacks these names, or holds data that are
            neither images nor vectors.
    """
    arrays = _read_arrays(path)
    for key in arrays.keys() & {"x", "x_train", "x_test"}:
        arrays[key] = channels_first(arrays[key], f"{path}: {key}")
    return arrays


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as handle:
            file = np.load(handle, allow_pickle=False)  # unpickling could run code
            if isinstance(file, np.ndarray):
                return {"x": file}
            found = list(file)
            arrays = {key: file[key] for key in _KEYS if key in found}
    except Exception as error:  # zip, zlib, header and memory failures have no common type
        raise InputError(
            f"{path} cannot be read: {cause(error)}. It is damaged, unreadable or holds Python "
            "objects; save plain arrays with numpy.savez or numpy.save."
        ) from None
    if "x" not in arrays and not {"x_train", "x_test"} <= arrays.keys():
        raise InputError(
            f"{path} holds the arrays {found}: name them x_train and x_test (and y_train, y_test), "
            "or x (and y)."
        )
    return arrays
