"""The classes of a user's own file: whatever they are called there, their numbers 0, 1, ... and names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pyrovae.data.arrays import as_classes
from pyrovae.data.checks import UNLABELLED
from pyrovae.errors import InputError


class Numbered(NamedTuple):
    """Classes by number.

    Attributes:
        ys: the class of each datum, `(N,)` whole numbers counted from 0, by the names of the arrays.
        names: the names of the classes; empty where they are called by these numbers.
        called_by_numbers: whether the names are other numbers, by which the file calls its classes.
    """

    ys: dict[str, np.ndarray]
    names: tuple[str, ...]
    called_by_numbers: bool = False


def numbered(ys: Mapping[str, np.ndarray], names: tuple[str, ...], what: str) -> Numbered:
    """Number the classes of a file: text by its order or that of the names, and numbers in ascending order.

    Args:
        ys: the label of each datum, `(N,)` text or whole numbers, by the names of the arrays.
        names: the names of the classes 0, 1, ...; empty if the file gives none.
        what: a name for the file, for messages.

    Raises:
        InputError: the labels of an array are neither text nor whole numbers, or of another shape; or a
            label is -1, or not among the names.

    Example:
        >>> found = numbered({"y": np.array([3, 1, 3])}, (), "mine")
        >>> found.ys["y"].tolist(), found.names
        ([1, 0, 1], ('1', '3'))
    """
    labels = {key: _labels(y, f"{what}: {key}") for key, y in ys.items()}
    if not labels:
        return Numbered({}, names)
    values = np.unique(np.concatenate([*labels.values()]))
    is_text = values.dtype.kind == "U"
    if (str(UNLABELLED) if is_text else UNLABELLED) in values.tolist():
        raise InputError(
            f"{what} holds the label {UNLABELLED}, which stands for an unlabelled datum: leave these data "
            "out, or give all classes and let --labels N hide some of them. In Python, "
            f"SemiSupervisedVAEClassifier takes {UNLABELLED}."
        )
    if not is_text and (names or np.array_equal(values, np.arange(len(values)))):
        return Numbered(labels, names)
    known = names or tuple(map(str, values.tolist()))
    if strange := [value for value in map(str, values.tolist()) if value not in known]:
        raise InputError(
            f"{what} holds the class {strange[0]!r}, but class_names are {', '.join(known)}: add its name, "
            "or leave class_names out."
        )
    place = {name: number for number, name in enumerate(known)}
    codes = np.array([place[str(value)] for value in values.tolist()])
    found = {key: codes[np.searchsorted(values, y.astype(values.dtype))] for key, y in labels.items()}
    return Numbered(found, known, called_by_numbers=not is_text)


def _labels(y: np.ndarray, what: str) -> np.ndarray:
    """Return labels as text or as whole numbers."""
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8", "replace")
    if y.dtype.kind == "f" and (bad := y[y != np.rint(y)]).size:  # NaN is not equal to itself
        raise InputError(
            f"{what} holds {bad.flat[0]:g}, which is no class: save classes as text or whole numbers, or "
            "leave the array out."
        )
    if y.dtype.kind in "fu" and y.size and y.min() > -(2.0**63) and y.max() < 2.0**63:
        y = y.astype(np.int64)
    if y.ndim == 1 and y.size and y.dtype.kind in "iuU":
        return y
    return as_classes(y, what).numpy()  # which takes masks, and refuses all else
