"""The preparation of data for a model: grey values, binarised pixels or 256 levels, shifted or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from pyrovae import data

if TYPE_CHECKING:
    from torch import Tensor

    from pyrovae.recipes.plan import Pixels
    from pyrovae.recipes.settings import Data


@dataclass(frozen=True)
class Presentation:
    """The preparation of data for a model, in training and in evaluation.

    Args:
        pixels: "none" keeps grey values, "static" draws each pixel once, "dynamic" draws it in every
            minibatch, "levels" makes 256 levels.
        shift: the largest random shift of each image of a minibatch, in pixels.
        seed: the seed of the fixed draw of binary pixels.
    """

    pixels: Literal["none", "static", "dynamic", "levels"]
    shift: int = 0
    seed: int = 0

    @classmethod
    def of(cls, pixels: Pixels, settings: Data) -> Presentation:
        """Choose the preparation from a plan's `pixels` and the settings of the data."""
        if pixels == "levels":
            return cls("levels", settings.shift, settings.split_seed)
        if settings.binarise != "auto":
            return cls(settings.binarise, settings.shift, settings.split_seed)
        chosen: Literal["dynamic", "none"] = "dynamic" if pixels == "binary" else "none"
        return cls(chosen, settings.shift, settings.split_seed)

    def for_training(self, x: Tensor) -> Tensor:
        """Prepare the training data `(N, *x_shape)` once. `transforms` then prepares each minibatch."""
        return x if self.pixels == "dynamic" else self.fixed(x)

    def transforms(self) -> list[Callable[[Tensor], Tensor]]:
        """Return the functions that each minibatch passes through in training."""
        steps: list[Callable[[Tensor], Tensor]] = []
        if self.shift:
            steps.append(partial(data.random_shift, pixels=self.shift))
        if self.pixels == "dynamic":
            steps.append(data.binarise)
        return steps

    def fixed(self, x: Tensor) -> Tensor:
        """Prepare data for evaluation. Pixels are binarised by one fixed draw, so that scores repeat."""
        if self.pixels in ("static", "dynamic"):
            return data.binarise_static(x, self.seed)
        return data.to_levels(x) if self.pixels == "levels" else x

    def encoded(self, x: Tensor) -> Tensor:
        """Prepare data for the encoder and the classifier. Pixels that training draws anew stay grey."""
        return x if self.pixels == "dynamic" else self.fixed(x)

    def shown(self, x: Tensor) -> Tensor:
        """Convert prepared data back to grey values in [0, 1], for figures."""
        return data.from_levels(x) if self.pixels == "levels" else x

    @property
    def changes_pixels(self) -> bool:
        """Whether prepared images look different from the original ones."""
        return self.pixels in ("static", "dynamic")
