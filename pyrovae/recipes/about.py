"""The facts about the data that a recipe needs to build a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pyrovae.training import Data as Source

ROUNDING = 1e-6
"""The distance from [0, 1] up to which a value counts as lying within. It is clipped then."""

_READ = 1000
"""The number of data that are read of a memory map or a dataset."""


@dataclass(frozen=True)
class About:
    """The facts about the data that a recipe needs to build a model.

    They are plain values, so that a run folder keeps them and the model can be built again without the
    data.

    Args:
        x_shape: the event shape of one datum, `(C, H, W)` or `(D,)`.
        num_classes: C, the number of classes. 0 means that the data have none.
        unlabelled: whether the class of some data is unknown.
        seed: the seed of the model's initial parameters.
        in_unit_interval: whether all values of the data lie in [0, 1], up to rounding.
        column_names: the names of the columns of vectors, for messages; empty where they have none.

    Example:
        >>> About((1, 28, 28), num_classes=10).x_shape
        (1, 28, 28)
    """

    x_shape: tuple[int, ...]
    num_classes: int = 0
    unlabelled: bool = True
    seed: int = 0
    in_unit_interval: bool = True
    column_names: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        x: Source,
        y: Tensor | None = None,
        *,
        num_classes: int = 0,
        seed: int = 0,
        column_names: Sequence[str] = (),
    ) -> About:
        """Collect the facts from data.

        Args:
            x: the data, `(N, *x_shape)`, or a memory map or dataset of such data. Of
                these up to 1,000 are read.
            y: their classes `(N,)`, counted from 0, -1 for unlabelled data. None means no classes.
            num_classes: C. 0 means the largest class in `y` plus one.
            seed: the seed of the model's initial parameters.
            column_names: the names of the columns of vectors, for messages.

        Example:
            >>> import torch
            >>> about = About.of(torch.zeros(3, 5), torch.tensor([0, 1, -1]))
            >>> about.x_shape, about.num_classes, about.in_unit_interval
            ((5,), 2, True)
        """
        import torch

        from pyrovae.training import few

        read = x if isinstance(x, torch.Tensor) else few(x, _READ)
        counted = 0 if y is None else int(y.max()) + 1
        unlabelled = y is None or bool((y < 0).any())
        facts = num_classes or counted, unlabelled, seed, in_unit_interval(read)
        return cls(tuple(read.shape[1:]), *facts, tuple(column_names))


def in_unit_interval(x: Tensor) -> bool:
    """Return whether all values of data lie in [0, 1], up to rounding. Missing ones, NaN, do not count."""
    return not bool(((x < -ROUNDING) | (x > 1 + ROUNDING)).any())
