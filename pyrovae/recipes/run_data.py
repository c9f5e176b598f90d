"""The data that a run's commands are asked about: the run's own, or those of another file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data import DATASETS, Images
from pyrovae.data.checks import check_seed
from pyrovae.data.digests import fingerprint
from pyrovae.data.loading import Rows
from pyrovae.errors import InputError, check_counts
from pyrovae.recipes.about import About
from pyrovae.storage import expanded


@dataclass(frozen=True, eq=False)
class Scored:
    """The data that a run is measured on: its own test data, or all rows of another file.

    Attributes:
        x: the data, `(N, *x_shape)`, as they were read.
        y: their classes `(N,)`, numbered as the run's, or None.
        class_names: the names of the run's classes.
        name: the name of the data.
        file: the full path of other data, or their name. None for the run's own.
        column_names: the names of the columns of vectors; empty where they have none.
    """

    x: Tensor
    y: Tensor | None
    class_names: Sequence[str]
    name: str
    file: str | None = None
    column_names: Sequence[str] = ()

    @property
    def mark(self) -> str:
        """What stands behind the names of results on these data: nothing for the run's own test data."""
        if self.file is None:
            return ""
        plain = re.sub(r"[^\w.-]", "-", Path(self.file).stem)[:60]
        return f"_{plain}_{values_of(self.x, self.y)[:8]}"


@dataclass(frozen=True, eq=False)
class Choice:
    """Which of the data are measured: all, or some that are drawn at random, since files may be sorted.

    Attributes:
        rows: the rows of the data, `(n,)`, ascending.
        of: the number of all data.
        seed: the seed of the draw.
    """

    rows: Tensor
    of: int
    seed: int

    @classmethod
    def among(cls, num_data: int, limit: int | None, seed: int = 0) -> Choice:
        """Draw at most `limit` of the data. With the same seed, a larger choice contains a smaller one.

        Raises:
            InputError: the limit is below 1, or the seed is out of range.
        """
        check_seed(seed)
        if limit is not None:
            check_counts(limit=limit)
        order = torch.from_numpy(np.random.default_rng(seed).permutation(num_data))
        return cls(order[:limit].sort().values, num_data, seed)

    @property
    def is_all(self) -> bool:
        """Whether all data are measured."""
        return len(self.rows) == self.of

    def content(self) -> dict[str, Any]:
        """Return what a result keeps of the choice, as plain values. Nothing is kept if it is all data."""
        chosen = {"num_data": len(self.rows), "of": self.of, "seed": self.seed}
        return {} if self.is_all else {"limit": chosen}

    def __str__(self) -> str:
        return f"{len(self.rows)} of the {self.of} data, drawn at random with seed {self.seed}"


@dataclass(frozen=True)
class Known:
    """What a run remembers of its data set.

    Attributes:
        values: the digest of its values. None for a `Dataset` that was given in Python.
        class_names: the names of the classes, or their numbers as text. Empty for data that were given in
            Python.
        scale: the number that the values were divided by: 255 for grey levels, else 1.
        from_python: whether the data were given in Python.
    """

    values: str | None = None
    class_names: tuple[str, ...] = ()
    scale: int = 1
    from_python: bool = False

    @classmethod
    def of(cls, images: Images) -> Known:
        """Describe a data set."""
        return cls(values_of_split(images), images.class_names, images.scale)

    @classmethod
    def of_given(cls, x: object, y: Tensor | None) -> Known:
        """Describe training data that were given in Python. Only tensors are known again."""
        return cls(values_of(x, y) if isinstance(x, Tensor) else None, from_python=True)


def values_of_split(images: Images) -> str:
    """Return a digest of the values of a data set, as they were read and split."""
    return values_of(images.x_train, images.y_train, images.x_test, images.y_test)


def values_of(*parts: Tensor | None) -> str:
    """Return a digest of the values of data and their classes."""
    prints = [None if part is None else fingerprint(part) for part in parts]
    return hashlib.sha256(repr(prints).encode()).hexdigest()[:16]


def other_data(file: str | None, rows: Rows, about: About, class_names: Sequence[str]) -> Scored:
    """Prepare all rows of other data than the run's.

    Args:
        file: the file that holds them, for messages and results. None for data that were given in Python.
        rows: the data.
        about: the facts about the data of the run.
        class_names: the names of the run's classes.

    Raises:
        InputError: one datum has another shape than the run's, or a class is not among the run's.
    """
    if tuple(rows.x.shape[1:]) != tuple(about.x_shape):
        raise InputError(
            f"one datum of {file or rows.name} has shape {tuple(rows.x.shape[1:])}, but the run was "
            f"trained on data of shape {tuple(about.x_shape)}: name data of that shape."
        )
    y = None
    if rows.y is not None and about.num_classes:
        y = _numbered_as(class_names, rows, about.num_classes, file or rows.name)
    if file is None:
        return Scored(rows.x, y, class_names, rows.name, rows.name)
    place = file if file in DATASETS else str(expanded(file).resolve())
    return Scored(rows.x, y, class_names, Path(place).name, place, rows.column_names)


def _numbered_as(known: Sequence[str], rows: Rows, num_classes: int, file: str) -> Tensor:
    """Return classes by the run's numbers: by their names, if they have names, or else by their numbers.

    A file that calls classes by numbers means those of the run that are called so. If the run's classes
    have other names, it counts them.
    """
    assert rows.y is not None
    names = rows.class_names or tuple(map(str, range(int(rows.y.max()) + 1)))
    by_numbers = rows.called_by_numbers or not rows.class_names
    if by_numbers and not all(name.removeprefix("-").isdecimal() for name in known):
        known = [*map(str, range(num_classes))]
    present = [names[label] for label in rows.y.unique().tolist()]
    if strange := [name for name in present if name not in known]:
        raise InputError(
            f"{file} holds the class {strange[0]!r}, but the classes of the run are {', '.join(known)}: "
            "rename the class, or leave its data out."
        )
    places = [known.index(name) if name in known else -1 for name in names]
    return torch.tensor(places)[rows.y]
