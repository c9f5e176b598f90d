"""The facts about the data that a recipe needs to build a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from pyrovae.training import Data as Source


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

    Example:
        >>> About((1, 28, 28), num_classes=10).x_shape
        (1, 28, 28)
    """

    x_shape: tuple[int, ...]
    num_classes: int = 0
    unlabelled: bool = True
    seed: int = 0

    @classmethod
    def of(cls, x: Source, y: Tensor | None = None, *, num_classes: int = 0, seed: int = 0) -> About:
        """Collect the facts from data.

        Args:
            x: the data, `(N, *x_shape)`, or a memory map or dataset of such data.
            y: their classes `(N,)`, counted from 0, -1 for unlabelled data. None means no classes.
            num_classes: C. 0 means the largest class in `y` plus one.
            seed: the seed of the model's initial parameters.

        Example:
            >>> import torch
            >>> About.of(torch.zeros(3, 5), torch.tensor([0, 1, -1]))
            About(x_shape=(5,), num_classes=2, unlabelled=True, seed=0)
        """
        from pyrovae.training import few

        x_shape = tuple(few(x, 1).shape[1:])
        counted = 0 if y is None else int(y.max()) + 1
        unlabelled = y is None or bool((y < 0).any())
        return cls(x_shape, num_classes or counted, unlabelled, seed)
