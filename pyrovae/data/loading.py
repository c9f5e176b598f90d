"""Load a data set: one that is known by name, or a user's own file or folder."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.arrays import as_classes, as_names, check_array, read_values
from pyrovae.data.blocks import Blocks, whole
from pyrovae.data.checks import check_lengths
from pyrovae.data.image_folders import read_image_folder
from pyrovae.data.images import Images
from pyrovae.data.labels import numbered
from pyrovae.data.numpy_files import SUFFIXES, read_numpy_file
from pyrovae.data.splits import stratified_split
from pyrovae.data.table import DATASETS
from pyrovae.errors import InputError, cause
from pyrovae.storage import expanded

Arrays = Mapping[str, np.ndarray | Blocks]
"""The arrays of a data set by the keys that `load` documents for a `.npz` file."""


@dataclass(frozen=True, eq=False)
class _Found:
    """What a data set holds, as it is stored.

    Attributes:
        name: the name of the data set.
        arrays: its arrays, `x` or `x_train` and `x_test`, and classes.
        class_names: the names of the classes; empty where classes are called by their numbers.
        levels: whether integers are grey levels by the format of the data, such as PNG.
        column_names: the names of the columns of vectors; empty where they have none.
        called_by_numbers: whether the names of the classes are numbers, by which a file calls them.
    """

    name: str
    arrays: Arrays
    class_names: tuple[str, ...]
    levels: bool
    column_names: tuple[str, ...] = ()
    called_by_numbers: bool = False

    def classes(self) -> dict[str, Tensor]:
        """Return the classes of each part that has some, by their keys."""
        ys = {key: y for key, y in self.arrays.items() if key[0] == "y"}
        return {key: as_classes(whole(y), f"{self.name}: {key}") for key, y in ys.items()}

    def data(self, scale: int | None, rows: Sequence[Tensor] | None = None) -> tuple[list[Tensor], int]:
        """Read the data, and bring them to one scale.

        Args:
            scale: the number that the training data of a run were divided by. None means that the first
                array tells: these are the training data.
            rows: the rows of each part of the array `x`. None means one part.

        Returns:
            A tensor for each part, and the scale.
        """
        keys = ["x"] if "x" in self.arrays else ["x_train", "x_test"]
        found = [read_values(self.arrays[key], f"{self.name}: {key}", rows) for key in keys]
        if scale is None:
            scale = max(values.scale for values in (found if self.levels else found[:1]))
        return [part for values in found for part in values.over(scale, self.levels)], scale


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
            `y_test`), or with `x` (and `y`), with `class_names` if the classes have names, and with
            `column_names` if the columns of vectors do; a `.npy` file with `x`; or a folder of images of
            one size, with a subfolder for each class if there are classes; if it holds two folders `train`
            and `test`, these are the split. Integers of images, and bytes (`uint8`) of any shape, are grey
            levels in 0..255 and are divided by 255, unless all training data are 0 or 1 (binary images).
            Floats of images lie in [0, 1]. Other vectors `(N, D)`, of integers or floats, hold any finite
            values and stay as they are. The test data have the scale of the training data. Classes are
            text or whole numbers, after which they are named, and each is in the training part.
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
    return _split(_read(name, download, root), seed)


def load_again(name: str | Path, seed: int, scale: int) -> Images:
    """Load the data set of a run as `load` did, with the scale that its data had.

    Args:
        name: the data set.
        seed: the seed of the split.
        scale: the number that the training data were divided by.

    Raises:
        InputError: there is no such data set or path, or its data cannot be read or used.
    """
    return _split(_read(name, False, None), seed, scale)


@dataclass(frozen=True, eq=False)
class Rows:
    """All data of a data set in the order in which they were read, not split.

    Attributes:
        name: the name of the data set.
        x: the data, `(N, *x_shape)`; where a data set has a split of its own, first those for training.
        y: their classes `(N,)`, or None.
        class_names: the names of the classes; empty where classes are called by their numbers.
        num_train: the number of data for training, where a data set has a split of its own; else None.
        scale: the number that the data, and the training data of the run, were divided by.
        column_names: the names of the columns of vectors; empty where they have none.
        called_by_numbers: whether the names of the classes are numbers, by which a file calls them.
    """

    name: str
    x: Tensor
    y: Tensor | None
    class_names: tuple[str, ...]
    num_train: int | None
    scale: int
    column_names: tuple[str, ...] = ()
    called_by_numbers: bool = False

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
        beside = self.class_names, self.scale, self.column_names
        return Images(self.name, self.x[train], of_train, self.x[test], of_test, *beside)


def load_rows(name: str | Path, scale: int | None) -> Rows:
    """Load all data of a data set, in order; `load` says what `name` may be.

    Classes may have gaps, since these data need not be trained on.

    Args:
        name: the data set.
        scale: the number that the training data of a run were divided by, 255 or 1. These data are brought
            to the same scale. None means that it is not known: they are read as `load` does.

    Raises:
        InputError: there is no such data set or path, its data cannot be read or used, it is not known
            whether they have this scale, or only one of the two parts has classes.
    """
    found = _read(name, False, None, to_train=False)
    xs, scale = found.data(scale)
    ys = [*found.classes().values()]
    if ys and len(ys) < len(xs):
        raise InputError(f"{found.name} has classes for one of its two parts: give both, or none.")
    x, y = torch.cat(xs), torch.cat(ys) if ys else None
    if y is not None:
        check_lengths(len(x), len(y), f"{found.name}: x")
    num_train = len(xs[0]) if len(xs) > 1 else None
    beside = found.column_names, found.called_by_numbers
    return Rows(found.name, x, y, found.class_names, num_train, scale, *beside)


def _read(name: str | Path, download: bool, root: Path | None, to_train: bool = True) -> _Found:
    """Find what a data set holds. Training needs more of the classes than scoring does."""
    if isinstance(name, str) and name in DATASETS:
        row = DATASETS[name]
        arrays = row.load()(name, data_root() if root is None else expanded(root), download)
        return _Found(name, arrays, row.class_names, levels=True)
    try:
        path = expanded(name)
        if not str(name) or not path.exists():
            raise InputError(_not_found(str(name)))
        found = _read_path(path, to_train)
        if to_train:
            _check_classes(found)
        return found
    except OSError as error:
        raise InputError(
            f"{name} cannot be read: {cause(error)}. Check the path and its permissions."
        ) from None


def _read_path(path: Path, to_train: bool) -> _Found:
    if path.is_dir():
        return _Found(path.resolve().name, *read_image_folder(path, to_train), levels=True)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path} has the suffix {path.suffix!r}: give a .npz, a .npy or a folder of images."
            + (_FROM_TABLE if path.suffix.lower() in (".csv", ".tsv", ".txt") else "")
        )
    arrays: dict[str, Any] = {**read_numpy_file(path)}
    class_names, column_names = (
        as_names(whole(arrays.pop(key)), f"{path.stem}: {key}") if key in arrays else ()
        for key in ("class_names", "column_names")
    )
    ys = {key: whole(arrays[key]) for key in arrays if key[0] == "y"}
    classes = numbered(ys, class_names, path.stem)
    arrays |= classes.ys
    return _Found(path.stem, arrays, classes.names, False, column_names, classes.called_by_numbers)


_FROM_TABLE = (
    " In Python, table = pandas.read_csv(FILE) and numpy.savez('table.npz', x=table, "
    "column_names=table.columns.to_numpy(str)) write a .npz of a table of numbers; y=labels.to_numpy(str) "
    "adds classes."
)


def _not_found(name: str) -> str:
    known = ", ".join(DATASETS)
    near = difflib.get_close_matches(name.lower().replace("_", "-"), [*DATASETS], n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{name!r} is neither a data set ({known}) nor an existing file or folder.{hint}"


def _split(found: _Found, seed: int, scale: int | None = None) -> Images:
    ys, name, names, columns = found.classes(), found.name, found.class_names, found.column_names
    if "x" not in found.arrays:
        (train, test), scale = found.data(scale)
        return Images(name, train, ys.get("y_train"), test, ys.get("y_test"), names, scale, columns)
    x, y = found.arrays["x"], ys.get("y")
    check_array(x, f"{name}: x")
    if y is not None:
        check_lengths(x.shape[0], len(y), f"{name}: x")
    rows = stratified_split(y, seed=seed, n=x.shape[0])
    (train, test), scale = found.data(scale, rows)
    y_train, y_test = (None, None) if y is None else (y[rows[0]], y[rows[1]])
    return Images(name, train, y_train, test, y_test, names, scale, columns)


def _check_classes(found: _Found) -> None:
    """Refuse classes of a user's own data that training would never see.

    Raises:
        InputError: the classes have gaps, or test data have a class that no training datum has.
    """
    ys, name = found.classes(), found.name
    key = "y" if "y" in ys else "y_train"
    if key not in ys:
        return
    known = ys[key].unique().tolist()
    if "y_test" in ys and (unseen := {*ys["y_test"].tolist()} - {*known}):
        label = found.class_names[min(unseen)] if found.class_names else min(unseen)
        raise InputError(
            f"{name}: y_test holds the class {label}, and y_train does not: move data of this class into "
            "the training part, or leave them out."
        )
    if len(known) <= known[-1]:
        gap = next(label for label, present in enumerate([*known, -1]) if label != present)
        raise InputError(
            f"{name}: {key} holds {len(known)} classes up to {known[-1]}, and none is {gap}: number "
            "the classes from 0 without gaps, or leave class_names out."
        )
