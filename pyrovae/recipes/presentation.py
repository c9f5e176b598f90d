"""The preparation of data for a model: grey values, binarised pixels or 256 levels, shifted or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from pyrovae import data
from pyrovae.errors import InputError, warn
from pyrovae.recipes.about import ROUNDING

if TYPE_CHECKING:
    from torch import Tensor

    from pyrovae.recipes.plan import Pixels
    from pyrovae.recipes.settings import Data


BEYOND = 0.1 + 1e-6  # in 32 bits, -0.1 is less than -1/10
"""The distance from [0, 1] up to which values of new data are clipped."""


@dataclass(frozen=True)
class Presentation:
    """The preparation of data for a model, in training and in evaluation.

    Args:
        pixels: "none" keeps grey values, "static" draws each pixel once, "dynamic" draws it in every
            minibatch, "levels" makes 256 levels.
        shift: the largest random shift of each image of a minibatch, in pixels.
        seed: the seed of the fixed draw of binary pixels.
        bounded: whether the likelihood takes values in [0, 1] only, before they are prepared.
    """

    pixels: Literal["none", "static", "dynamic", "levels"]
    shift: int = 0
    seed: int = 0
    bounded: bool = False

    @classmethod
    def of(cls, pixels: Pixels, settings: Data) -> Presentation:
        """Choose the preparation from a plan's `pixels` and the settings of the data."""
        chosen: Literal["none", "static", "dynamic", "levels"]
        chosen = "dynamic" if pixels == "binary" else "none"
        if pixels == "levels":
            chosen = "levels"
        elif settings.binarise != "auto":
            chosen = settings.binarise
        return cls(chosen, settings.shift, settings.split_seed, bounded=pixels != "real")

    def check_training(self, x: Tensor) -> None:
        """Refuse training data that the likelihood does not take.

        Raises:
            InputError: the likelihood takes values in [0, 1], and some data lie outside by more than
                rounding.
        """
        low, high = self._range_of(x)
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise InputError(
                f"the data go from {low:.3g} to {high:.3g}, but the likelihood takes values in [0, 1]: "
                "choose likelihood='gaussian' (--likelihood gaussian) for real values, or scale the data."
            )

    def within_range(self, x: Tensor, what: str) -> Tensor:
        """Return new data with values in the range of the likelihood.

        Values up to a tenth beyond [0, 1] are clipped, and a warning says so. A scaler that was fitted to
        training data gives such values. Values that are beyond by rounding are clipped without a warning.

        Args:
            x: data that the model was not trained on, before they are prepared.
            what: a name for the data, for messages.

        Raises:
            InputError: the likelihood takes values in [0, 1], and some lie further outside.
        """
        low, high = self._range_of(x)
        if low >= 0 and high <= 1:
            return x
        if low < -BEYOND or high > 1 + BEYOND:
            raise InputError(
                f"the values of {what} go from {low:.3g} to {high:.3g}, but the model was trained on "
                "values in [0, 1]: scale them as the training data were scaled."
            )
        if outside := int(((x < -ROUNDING) | (x > 1 + ROUNDING)).sum()):
            warn(
                f"{outside} values of {what} lie outside of [0, 1], from {low:.3g} to {high:.3g}, and are "
                "clipped to this range, since the model was trained on values in it."
            )
        return x.clamp(0, 1)

    def _range_of(self, x: Tensor) -> tuple[float, float]:
        """Return the least and the greatest value, if the likelihood has a range; else that range."""
        return (x.min().item(), x.max().item()) if self.bounded and x.numel() else (0.0, 1.0)

    def for_training(self, x: Tensor) -> Tensor:
        """Prepare the training data `(N, *x_shape)` once. `transforms` then prepares each minibatch."""
        low, high = self._range_of(x)
        x = x if low >= 0 and high <= 1 else x.clamp(0, 1)
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

    def of_prepared(self, x: Tensor) -> Tensor:
        """Prepare training data, which `for_training` has prepared, for evaluation."""
        return self.fixed(x) if self.pixels == "dynamic" else x

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
