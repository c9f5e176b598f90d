"""A data set in memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import Tensor

from pyrovae.data.checks import check_lengths
from pyrovae.errors import InputError, one_line


@dataclass(frozen=True, eq=False)
class Images:
    """A data set in memory: a training part and a test part, with or without classes.

    Attributes:
        name: the name of the data set.
        x_train: images `(N, C, H, W)` in [0, 1], or vectors `(N, D)`; float32.
        y_train: classes `(N,)` counted from 0, int64; None without classes.
        x_test: the test data, of the same event shape.
        y_test: the classes of the test data, or None.
        names: the names of the classes 0, 1, ...; empty where classes are called by their numbers.
        scale: the number that the values were divided by when they were read: 255 for grey levels, else 1.
        column_names: the names of the columns of vectors; empty where they have none.

    Raises:
        InputError: there is not one class for each datum, a class has no name though others have, two
            classes have one name, or the two parts differ in their event shapes.
    """

    name: str
    x_train: Tensor
    y_train: Tensor | None
    x_test: Tensor
    y_test: Tensor | None
    names: tuple[str, ...] = ()
    scale: int = 1
    column_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise InputError(
                f"{self.name}: one datum has shape {self.shape} in x_train but "
                f"{tuple(self.x_test.shape[1:])} in x_test. Give both parts the same shape."
            )
        for part, x, y in (("train", self.x_train, self.y_train), ("test", self.x_test, self.y_test)):
            if y is not None:
                check_lengths(len(x), len(y), f"{self.name}: x_{part}")
        if self.column_names and (len(self.column_names),) != self.shape:
            raise InputError(
                f"{self.name} names {len(self.column_names)} columns, but one datum has shape "
                f"{self.shape}: give a name for each column of vectors, or no column_names."
            )
        if self.names and self._largest_class >= len(self.names):
            raise InputError(
                f"{self.name} holds the class {self._largest_class}, but names {len(self.names)} classes, "
                "counted from 0: give a name for each class, or no names."
            )
        if twice := [name for name, count in Counter(self.names).items() if count > 1]:
            raise InputError(f"{self.name} gives the name {twice[0]!r} to two classes: rename one of them.")

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape, that of one datum: `(C, H, W)` or `(D,)`."""
        return tuple(self.x_train.shape[1:])

    @property
    def num_classes(self) -> int:
        """The number of names, or else the largest class plus one; 0 without classes."""
        return len(self.names) or self._largest_class + 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, or else their numbers."""
        return self.names or tuple(map(str, range(self.num_classes)))

    @property
    def _largest_class(self) -> int:
        labels = [y for y in (self.y_train, self.y_test) if y is not None]
        return max((int(y.max()) for y in labels), default=-1)

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        text = f"{self.name}: {len(self.x_train)} data for training and {len(self.x_test)} for testing"
        if not self.num_classes:
            return one_line(f"{text}, each {size}, without classes")
        names = [*self.class_names]
        if len(names) > 12:
            names = [*names[:10], "...", names[-1]]
        return one_line(f"{text}, each {size}, {self.num_classes} classes: {', '.join(names)}")
