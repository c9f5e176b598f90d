"""A data set in memory."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pyrovae.data.checks import check_lengths
from pyrovae.data.table import DATASETS
from pyrovae.errors import InputError


@dataclass(frozen=True, eq=False)
class Images:
    """A data set in memory: a training part and a test part, with or without classes.

    Attributes:
        name: the name of the data set.
        x_train: images `(N, C, H, W)` in [0, 1], or vectors `(N, D)`; float32.
        y_train: classes `(N,)` counted from 0, int64; None without classes.
        x_test: the test data, of the same event shape.
        y_test: the classes of the test data, or None.

    Raises:
        InputError: there is not one class for each datum, or the two parts differ in their event shapes.
    """

    name: str
    x_train: Tensor
    y_train: Tensor | None
    x_test: Tensor
    y_test: Tensor | None

    def __post_init__(self) -> None:
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise InputError(
                f"{self.name}: one datum has shape {self.shape} in x_train but "
                f"{tuple(self.x_test.shape[1:])} in x_test. Give both parts the same shape."
            )
        check_lengths(self.x_train, self.y_train, f"{self.name}: x_train")
        check_lengths(self.x_test, self.y_test, f"{self.name}: x_test")

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape, that of one datum: `(C, H, W)` or `(D,)`."""
        return tuple(self.x_train.shape[1:])

    @property
    def num_classes(self) -> int:
        """The largest class plus one; 0 without classes."""
        labels = [y for y in (self.y_train, self.y_test) if y is not None]
        return max((int(y.max()) + 1 for y in labels), default=0)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes: those in `DATASETS` if it names them, else their numbers."""
        known = DATASETS[self.name].class_names if self.name in DATASETS else ()
        return known or tuple(str(label) for label in range(self.num_classes))
