"""Load a data set: one that is known by name, or a user's own file or folder."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.arrays import as_classes, as_data
from pyrovae.data.checks import check_lengths
from pyrovae.data.image_folders import read_image_folder
from pyrovae.data.images import Images
from pyrovae.data.numpy_files import SUFFIXES, read_numpy_file
from pyrovae.data.splits import stratified_split
from pyrovae.data.table import DATASETS
from pyrovae.errors import InputError, cause


def data_root() -> Path:
    """Return the folder of the data sets that are known by name: $PYROVAE_DATA, else `~/.cache/pyrovae`."""
    return Path(os.environ.get("PYROVAE_DATA") or "~/.cache/pyrovae").expanduser()


def load(name: str | Path, *, seed: int = 0, download: bool = False, root: Path | None = None) -> Images:
    """Load a data set that is known by name, or a user's own file or folder.

    Args:
        name: a name in `DATASETS`, or a path: a `.npz` file with `x_train` and `x_test` (and `y_train`,
            `y_test`), or with `x` (and `y`); a `.npy` file with `x`; or a folder of images of one size,
            with a subfolder for each class if there are classes. Integers in 0..255 are divided by 255,
            unless an array holds only 0 and 1 (binary images). Floats lie in [0, 1], except that vectors
            `(N, D)` may hold any finite value.
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
        if self.num_train is None:
            return _split(self.name, self.x, self.y, seed)
        train, test = slice(self.num_train), slice(self.num_train, None)
        of_train, of_test = (None, None) if self.y is None else (self.y[train], self.y[test])
        return Images(self.name, self.x[train], of_train, self.x[test], of_test)


def load_rows(name: str | Path) -> Rows:
    """Load all data of a data set, in order; see `load`.

    Raises:
        InputError: there is no such data set or path, its data cannot be read or used, or only one of its
            two parts has classes.
    """
    label, arrays = _read(name, False, None)
    names = DATASETS[label].class_names if name in DATASETS else ()
    keys = ["x"] if "x" in arrays else ["x_train", "x_test"]
    xs = [as_data(arrays[key], f"{label}: {key}") for key in keys]
    ys = [as_classes(arrays[key], f"{label}: {key}") for key in arrays if key[0] == "y"]
    if ys and len(ys) < len(xs):
        raise InputError(f"{label}: one of y_train and y_test is absent: give both, or none.")
    y = torch.cat(ys) if ys else None
    check_lengths(x := torch.cat(xs), y, f"{label}: x")
    return Rows(label, x, y, names, len(xs[0]) if len(xs) > 1 else None)


def _read(name: str | Path, download: bool, root: Path | None) -> tuple[str, dict[str, np.ndarray]]:
    """Return the data set's name and its arrays."""
    if isinstance(name, str) and name in DATASETS:
        folder = Path(root or data_root()).expanduser()
        return name, DATASETS[name].load()(name, folder, download)
    try:
        path = Path(name).expanduser()
        if not str(name) or not path.exists():
            raise InputError(_not_found(str(name)))
        label = path.resolve().name if path.is_dir() else path.stem
        return label, _read_path(path)
    except OSError as error:
        raise InputError(
            f"{name} cannot be read: {cause(error)}. Check the path and its permissions."
        ) from None


def _read_path(path: Path) -> dict[str, np.ndarray]:
    if path.is_dir():
        return read_image_folder(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path} has the suffix {path.suffix!r}: give a .npz, a .npy or a folder of images."
        )
    return read_numpy_file(path)


def _not_found(name: str) -> str:
    known = ", ".join(DATASETS)
    near = difflib.get_close_matches(name.lower().replace("_", "-"), [*DATASETS], n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{name!r} is neither a data set ({known}) nor an existing file or folder.{hint}"


def _from_arrays(name: str, arrays: dict[str, np.ndarray], seed: int) -> Images:
    xs = {key: as_data(value, f"{name}: {key}") for key, value in arrays.items() if key[0] == "x"}
    ys = {key: as_classes(value, f"{name}: {key}") for key, value in arrays.items() if key[0] == "y"}
    if "x_train" in xs and "x_test" in xs:
        return Images(name, xs["x_train"], ys.get("y_train"), xs["x_test"], ys.get("y_test"))
    return _split(name, xs["x"], ys.get("y"), seed)


def _split(name: str, x: Tensor, y: Tensor | None, seed: int) -> Images:
    check_lengths(x, y, f"{name}: x")
    train, test = stratified_split(y, seed=seed, n=len(x))
    y_train, y_test = (None, None) if y is None else (y[train], y[test])
    return Images(name, x[train], y_train, x[test], y_test)
