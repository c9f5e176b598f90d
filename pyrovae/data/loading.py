"""Load a data set: one that is known by name, or a user's own file or folder."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.arrays import as_classes, as_data, check_array
from pyrovae.data.blocks import Blocks, InMemory, whole
from pyrovae.data.checks import check_lengths
from pyrovae.data.image_folders import read_image_folder
from pyrovae.data.images import Images
from pyrovae.data.numpy_files import SUFFIXES, read_numpy_file
from pyrovae.data.splits import stratified_split
from pyrovae.data.table import DATASETS
from pyrovae.errors import InputError, cause
from pyrovae.storage import expanded

Arrays = Mapping[str, np.ndarray | Blocks]
"""The arrays of a data set by the keys that `load` documents for a `.npz` file."""


def data_root() -> Path:
    """Return the folder of the data sets that are known by name: $PYROVAE_DATA, else `~/.cache/pyrovae`.

    Raises:
        InputError: $PYROVAE_DATA is not set, and the user has no home folder.
    """
    named = os.environ.get("PYROVAE_DATA")
    try:
        return expanded(named or "~/.cache/pyrovae")
    except InputError as error:
        remedy = "" if named else " Set PYROVAE_DATA to the folder of the data sets."
        raise InputError(f"{error}{remedy}") from None


def load(name: str | Path, *, seed: int = 0, download: bool = False, root: Path | None = None) -> Images:
    """Load a data set that is known by name, or a user's own file or folder.

    Args:
        name: a name in `DATASETS`, or a path: a `.npz` file with `x_train` and `x_test` (and `y_train`,
            `y_test`), or with `x` (and `y`); a `.npy` file with `x`; or a folder of images of one size,
            with a subfolder for each class if there are classes; if it holds two folders `train` and
            `test`, these are the split. Integers in 0..255 are divided by 255, unless an array holds only
            0 and 1 (binary images). Floats lie in [0, 1], except that vectors `(N, D)` may hold any finite
            value. Classes are whole numbers from 0 without gaps, and each is in the training part.
        seed: the seed of the split into 80 % training and 20 % test data, stratified by class. Data that
            come with a split of their own keep that one.
        download: whether to download a named data set that is absent or damaged.
        root: the folder of the named data sets; `data_root()` by default.

    Returns:
        Images `(N, C, H, W)` in [0, 1] or vectors `(N, D)`, in a training and a test part. The global
        random state does not change.

    Raises:
        InputError: there is no such data set or path, or its data cannot be read or used.

    Example:
        >>> images = load("digits")
        >>> images.x_train.shape
        torch.Size([1437, 1, 8, 8])
    """
    return _from_arrays(*_read(name, download, root), seed)


@dataclass(frozen=True, eq=False)
class Rows:
    """All data of a data set in the order in which they were read, not split.

    Attributes:
        name: the name of the data set.
        x: the data, `(N, *x_shape)`; where a data set has a split of its own, first those for training.
        y: their classes `(N,)`, or None.
        class_names: the names of the classes; empty where classes are called by their numbers.
        num_train: the number of data for training, where a data set has a split of its own; else None.
    """

    name: str
    x: Tensor
    y: Tensor | None
    class_names: tuple[str, ...]
    num_train: int | None

    def split(self, seed: int) -> Images:
        """Split the data as `load` does.

        Raises:
            InputError: there are too few data.
        """
        parts: tuple[Any, Any] = slice(self.num_train), slice(self.num_train, None)
        if self.num_train is None:
            parts = stratified_split(self.y, seed=seed, n=len(self.x))
        train, test = parts
        of_train, of_test = (None, None) if self.y is None else (self.y[train], self.y[test])
        return Images(self.name, self.x[train], of_train, self.x[test], of_test, self.class_names)


def load_rows(name: str | Path, *, grey: bool = False) -> Rows:
    """Load all data of a data set, in order; `load` says what `name` may be.

    Classes may have gaps, since these data need not be trained on.

    Args:
        name: the data set.
        grey: whether integers are grey levels in 0..255 even if all of them are 0 or 1.

    Raises:
        InputError: there is no such data set or path, its data cannot be read or used, or only one of its
            two parts has classes.
    """
    label, arrays, class_names = _read(name, False, None, to_train=False)
    keys = ["x"] if "x" in arrays else ["x_train", "x_test"]
    xs = [as_data(arrays[key], f"{label}: {key}")[0] for key in keys]
    if grey:
        xs = [x / 255 if _is_binary(arrays[key]) else x for key, x in zip(keys, xs, strict=True)]
    ys = [as_classes(whole(arrays[key]), f"{label}: {key}") for key in arrays if key[0] == "y"]
    if ys and len(ys) < len(xs):
        raise InputError(f"{label} has classes for one of its two parts: give both, or none.")
    x, y = torch.cat(xs), torch.cat(ys) if ys else None
    if y is not None:
        check_lengths(len(x), len(y), f"{label}: x")
    return Rows(label, x, y, class_names, len(xs[0]) if len(xs) > 1 else None)


def _is_binary(array: np.ndarray | Blocks) -> bool:
    """Whether an array holds integers that are all 0 or 1, which `as_data` leaves as they are."""
    blocks = InMemory(array) if isinstance(array, np.ndarray) else array
    return blocks.dtype.kind in "iu" and all(int(block.max()) <= 1 for block in blocks.blocks())


def _read(
    name: str | Path, download: bool, root: Path | None, to_train: bool = True
) -> tuple[str, Arrays, tuple[str, ...]]:
    """Return the data set's name, its arrays, and the names of its classes if it has some."""
    if isinstance(name, str) and name in DATASETS:
        row = DATASETS[name]
        arrays = row.load()(name, data_root() if root is None else expanded(root), download)
        return name, arrays, row.class_names
    try:
        path = expanded(name)
        if not str(name) or not path.exists():
            raise InputError(_not_found(str(name)))
        label = path.resolve().name if path.is_dir() else path.stem
        arrays, class_names = _read_path(path)
        if to_train:
            _check_classes(label, arrays)
        return label, arrays, class_names
    except OSError as error:
        raise InputError(
            f"{name} cannot be read: {cause(error)}. Check the path and its permissions."
        ) from None


def _read_path(path: Path) -> tuple[Arrays, tuple[str, ...]]:
    """Return the arrays of a file or folder, and the names of the classes if it has some."""
    if path.is_dir():
        return read_image_folder(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path} has the suffix {path.suffix!r}: give a .npz, a .npy or a folder of images."
        )
    return read_numpy_file(path), ()


def _not_found(name: str) -> str:
    known = ", ".join(DATASETS)
    near = difflib.get_close_matches(name.lower().replace("_", "-"), [*DATASETS], n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{name!r} is neither a data set ({known}) nor an existing file or folder.{hint}"


def _from_arrays(name: str, arrays: Arrays, class_names: tuple[str, ...], seed: int) -> Images:
    ys = {key: as_classes(whole(y), f"{name}: {key}") for key, y in arrays.items() if key[0] == "y"}
    if "x_train" in arrays and "x_test" in arrays:
        train, test = (as_data(arrays[key], f"{name}: {key}")[0] for key in ("x_train", "x_test"))
        return Images(name, train, ys.get("y_train"), test, ys.get("y_test"), class_names)
    x, y = arrays["x"], ys.get("y")
    check_array(x, f"{name}: x")
    if y is not None:
        check_lengths(x.shape[0], len(y), f"{name}: x")
    rows = stratified_split(y, seed=seed, n=x.shape[0])
    train, test = as_data(x, f"{name}: x", rows)
    y_train, y_test = (None, None) if y is None else (y[rows[0]], y[rows[1]])
    return Images(name, train, y_train, test, y_test, class_names)


def _check_classes(name: str, arrays: Arrays) -> None:
    """Refuse classes of a user's own data that training would never see.

    Raises:
        InputError: the classes have gaps, or test data have a class that no training datum has.
    """
    for key in ("y", "y_train"):
        if key not in arrays:
            continue
        found = as_classes(whole(arrays[key]), f"{name}: {key}").unique().tolist()
        if len(found) <= found[-1]:
            gap = next(label for label, known in enumerate([*found, -1]) if label != known)
            raise InputError(
                f"{name}: {key} holds {len(found)} classes up to {found[-1]}, and none is {gap}: number "
                "the classes from 0 without gaps, for example by numpy.unique(y, return_inverse=True)[1]."
            )
        other = as_classes(whole(arrays["y_test"]), f"{name}: y_test") if "y_test" in arrays else None
        if key == "y_train" and other is not None and (unseen := {*other.tolist()} - {*found}):
            raise InputError(
                f"{name}: y_test holds the class {min(unseen)}, and y_train does not: move data of this "
                "class into the training part, or leave them out."
            )
