"""Data sets: the embedded default, the standard ones by name, and a user's own files.

`load` returns images `(N, C, H, W)` in [0, 1], or vectors `(N, D)`, with a train and a test part.
Nothing here moves the global random state except `binarise` without a generator. scikit-learn is
imported where it is used, since that takes seconds, and `pyrovae --help` has no need of it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pyro.distributions import is_validation_enabled
from torch import Tensor

from pyrovae.data.files import TORCHVISION, cause, read_path, read_torchvision
from pyrovae.errors import InputError

DATASETS: dict[str, str] = {
    "digits": "1,797 grey 8x8 digits, 10 classes; part of scikit-learn, needs no download",
    "mnist": "60,000 + 10,000 grey 28x28 digits, 10 classes; through torchvision",
    "fashion-mnist": "60,000 + 10,000 grey 28x28 clothes, 10 classes; through torchvision",
    "cifar10": "50,000 + 10,000 colour 32x32 photographs, 10 classes; through torchvision",
}

# Where classes are not called by their numbers.
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "fashion-mnist": (
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
}

Labels = Tensor | np.ndarray | Sequence[int]


@dataclass(frozen=True, eq=False)
class Images:
    """A data set in memory: a training and a test part, labelled or not.

    Raises InputError: labels and data differ in number, or the two parts in event shape.
    """

    name: str
    x_train: Tensor  # (N, C, H, W) float32 in [0, 1], or (N, D) float32 for plain vectors
    y_train: Tensor | None  # (N,) int64 classes counted from 0
    x_test: Tensor
    y_test: Tensor | None

    def __post_init__(self) -> None:
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise InputError(
                f"{self.name}: one datum has shape {self.shape} in x_train but "
                f"{tuple(self.x_test.shape[1:])} in x_test. Give both parts the same shape."
            )
        _check_pair(self.x_train, self.y_train, f"{self.name}: x_train")
        _check_pair(self.x_test, self.y_test, f"{self.name}: x_test")

    @property
    def shape(self) -> tuple[int, ...]:
        """Event shape of one datum, `(C, H, W)` or `(D,)`."""
        return tuple(self.x_train.shape[1:])

    @property
    def num_classes(self) -> int:
        """The largest label plus one; 0 without labels."""
        labels = [y for y in (self.y_train, self.y_test) if y is not None]
        return max((int(y.max()) + 1 for y in labels), default=0)


def data_root() -> Path:
    """Where data sets lie: $PYROVAE_DATA, else `~/.cache/pyrovae`."""
    return Path(os.environ.get("PYROVAE_DATA") or "~/.cache/pyrovae").expanduser()


def load(name: str | Path, *, seed: int = 0, download: bool = False, root: Path | None = None) -> Images:
    """Read a data set by name, or a user's own file or folder.

    Args:
        name: a key of `DATASETS`, or a path: a `.npz` with `x_train`, `x_test` [, `y_train`,
            `y_test`] or `x` [, `y`]; a `.npy` with `x`; or a folder of images of one size, flat
            or in class subfolders (labels by sorted name). Integers in 0..255 are divided by 255,
            unless an array holds only 0 and 1 (binary images). Floats lie in [0, 1], except that
            vectors `(N, D)` may hold any finite float.
        seed: of the 80-20 split, stratified by class, of data that bring none of their own.
        download: allow the download of a named data set that is absent or damaged.
        root: where the named data sets lie; `data_root()` by default.

    Raises InputError: no such data set or path, or data that cannot be read or used.
    """
    if isinstance(name, str) and name in TORCHVISION:
        return _from_arrays(
            name, read_torchvision(name, Path(root or data_root()).expanduser(), download), seed
        )
    if name == "digits":
        from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]

        images, labels = load_digits(return_X_y=True)
        x = _events(images.reshape(-1, 1, 8, 8) / 16, "digits")
        return _split(name, x, _labels(labels, "digits"), seed)
    try:
        path = Path(name).expanduser()
        if not str(name) or not path.exists():
            raise InputError(_not_found(str(name)))
        label = path.resolve().name if path.is_dir() else path.stem
        return _from_arrays(label, read_path(path), seed)
    except OSError as error:
        raise InputError(
            f"{name} cannot be read: {cause(error)}. Check the path and its permissions."
        ) from None


def stratified_split(
    y: Labels | None, test_fraction: float = 0.2, seed: int = 0, *, n: int | None = None
) -> tuple[Tensor, Tensor]:
    """Indices of a training and a test part in which each class keeps its share.

    `y` holds `(N,)` classes; None asks for a plain random split of `n` data. The two int64 tensors
    are shuffled and disjoint, and together hold each index once.

    Raises InputError: a class with a single member, a fraction outside (0, 1), too few data.
    """
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped,unused-ignore]

    _check_seed(seed)
    if not 0 < test_fraction < 1:
        raise InputError(f"test_fraction is {test_fraction}: choose one strictly between 0 and 1.")
    if y is None and n is None:
        raise InputError("y is None, and so the split needs n, the number of data: give y or n.")
    labels = None if y is None else _labels(y, "y").numpy()
    classes, counts = np.unique([] if labels is None else labels, return_counts=True)
    if 1 in counts:
        raise InputError(
            f"class {classes[counts.argmin()]} has a single member, expected at least 2 "
            "of each class: add data, drop the class, or split by hand into x_train and x_test."
        )
    rows = np.arange(n or 0) if labels is None else np.arange(len(labels))
    try:
        parts = train_test_split(rows, test_size=test_fraction, random_state=seed, stratify=labels)
    except ValueError as error:
        raise InputError(
            f"{len(rows)} data cannot be split, with a fraction of {test_fraction} held out: "
            f"{cause(error)}. Give more data, or another fraction."
        ) from None
    return torch.from_numpy(parts[0]), torch.from_numpy(parts[1])


def labels_per_class(y: Labels, per_class: int, seed: int = 0) -> Tensor:
    """Indices of a labelled subset with `per_class` members of each class in `y` `(N,)`.

    Returns `(per_class * classes,)` int64, sorted; for one seed a smaller subset lies in a larger.

    Raises InputError: `per_class` is below 1 or more than a class has.
    """
    _check_seed(seed)
    labels = _labels(y, "y").numpy()
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if not 1 <= per_class <= len(members):
            raise InputError(
                f"per_class is {per_class}, but class {label} has {len(members)} members: "
                f"choose from 1 to {len(members)}."
            )
        chosen.append(generator.permutation(members)[:per_class])
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


def binarise(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One Bernoulli draw for each pixel, with its grey value as the probability.

    `(*)` floats to `(*)` zeros and ones. Called at each presentation of a minibatch, this is
    dynamic binarisation. The generator lies on the device of `x`; None is the global random state.

    Raises InputError: `x` is not a float tensor in [0, 1]. Values are not looked at where Pyro's validation
    is off, as it is in the steps of `fit`, which has presented all data before: a GPU would have to be
    waited for.
    """
    _check_range(x, 1, "binarise")
    return torch.bernoulli(x, generator=generator)


def binarise_static(x: Tensor, seed: int = 0) -> Tensor:
    """One fixed draw of `binarise`, the same on every device; the global random state stays put."""
    _check_seed(seed)
    return binarise(x.cpu(), torch.Generator().manual_seed(seed)).to(x.device)


def random_shift(x: Tensor, pixels: int, generator: torch.Generator | None = None) -> Tensor:
    """Each image moved by up to so many pixels down and across, afresh at every call; what is moved in
    is black. `(B, C, H, W)` to the same. The generator lies on the device of `x`; None is the global
    random state.

    Raises InputError: `x` holds no images, or `pixels` is negative.
    """
    if x.dim() != 4 or pixels < 0:
        raise InputError(
            f"data of shape {tuple(x.shape)} cannot be shifted by {pixels} pixels: give images "
            "(B, C, H, W) and a number of at least 0."
        )
    height, width = x.shape[-2:]
    padded = torch.nn.functional.pad(x, (pixels,) * 4)
    moves = torch.randint(2 * pixels + 1, (2, len(x), 1), generator=generator, device=x.device)
    down, across = moves
    rows = (down + torch.arange(height, device=x.device))[:, :, None]
    columns = (across + torch.arange(width, device=x.device))[:, None, :]
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return padded[image, :, rows, columns].movedim(-1, 1)


def to_levels(x: Tensor) -> Tensor:
    """Nearest of 256 grey levels: `(*)` floats in [0, 1] to `(*)` floats 0, 1, ..., 255.

    Raises InputError: `x` is not a float tensor in [0, 1].
    """
    _check_range(x, 1, "to_levels")
    return (x * 255).round()


def from_levels(levels: Tensor) -> Tensor:
    """The inverse of `to_levels`: `(*)` floats in [0, 255] to `(*)` floats in [0, 1].

    Raises InputError: `levels` is not a float tensor in [0, 255].
    """
    _check_range(levels, 255, "from_levels")
    return levels / 255


def _not_found(name: str) -> str:
    known = ", ".join(DATASETS)
    near = difflib.get_close_matches(name.lower().replace("_", "-"), DATASETS, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{name!r} is neither a data set ({known}) nor an existing file or folder.{hint}"


def _from_arrays(name: str, arrays: dict[str, np.ndarray], seed: int) -> Images:
    xs = {k: _events(v, f"{name}: {k}") for k, v in arrays.items() if k[0] == "x"}
    ys = {k: _labels(v, f"{name}: {k}") for k, v in arrays.items() if k[0] == "y"}
    if "x_train" in xs and "x_test" in xs:
        return Images(name, xs["x_train"], ys.get("y_train"), xs["x_test"], ys.get("y_test"))
    return _split(name, xs["x"], ys.get("y"), seed)


def _split(name: str, x: Tensor, y: Tensor | None, seed: int) -> Images:
    _check_pair(x, y, f"{name}: x")
    train, test = stratified_split(y, seed=seed, n=len(x))
    y_train, y_test = (None, None) if y is None else (y[train], y[test])
    return Images(name, x[train], y_train, x[test], y_test)


def _events(array: np.ndarray, what: str) -> Tensor:
    """float32 in [0, 1]; vectors (N, D) of floats as they are."""
    if 0 in array.shape:
        raise InputError(f"{what} is empty, of shape {array.shape}: give at least one datum.")
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"{what} has dtype {array.dtype}: save numbers (uint8, integers in 0..255, or floats)."
        )
    with np.errstate(over="ignore"):  # what exceeds float32 is reported below as infinite
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


def _labels(y: Labels, what: str) -> Tensor:
    """int64 (N,)."""
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


def _check_pair(x: Tensor, y: Tensor | None, what: str) -> None:
    if y is not None and len(x) != len(y):
        raise InputError(f"{what} has {len(x)} data but {len(y)} labels: give one label for each datum.")


def _check_range(x: Tensor, high: int, what: str) -> None:
    if not x.is_floating_point():
        raise InputError(f"{what} was given {x.dtype}, expected floats in [0, {high}]: convert it.")
    if is_validation_enabled() and not bool(((x >= 0) & (x <= high)).all()):  # false for NaN too
        raise InputError(
            f"{what} was given values in [{float(x.min()):.9g}, {float(x.max()):.9g}], expected "
            f"[0, {high}]: rescale them first."
        )


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise InputError(f"the seed is {seed}: choose an integer from 0 to 2**32 - 1.")
