"""The VAE beneath a model with classes: it is trained first, and labels spread over its latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pyrovae.errors import InputError
from pyrovae.recipes.components import Parts
from pyrovae.recipes.library.vae import vae
from pyrovae.recipes.plan import Stage

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Beneath:
    """The settings of the VAE beneath a model with classes, and of the spreading over its latents.

    Args:
        spread: whether the labels spread.
        neighbours: the number of neighbours of each datum in the graph along which they spread.
        epochs: the number of passes through the data in its training.
        beta: the weight of its KL term.
        validation_fraction: the share of the training data that chooses its best epoch.
    """

    spread: bool
    neighbours: int
    epochs: int
    beta: float
    validation_fraction: float

    def stages(self, parts: Parts) -> list[Stage]:
        """Return the stage that trains the VAE, if labels spread and some data are unlabelled."""
        if not (self.spread and parts.about.unlabelled):
            return []
        plan = vae(
            parts.about,
            latent_dim=parts.latent_dim,
            likelihood=parts.likelihood,
            posterior=parts.posterior,
            prior=parts.prior,
            network=parts.network,
            width=parts.width,
            **parts.options,
        )
        return [self.stage(plan.stages[0])]

    def stage(self, stage: Stage) -> Stage:
        """Return a VAE's stage with these settings and the name of its folder."""
        fixed: dict[str, Any] = {
            "epochs": self.epochs,
            "beta": self.beta,
            "validation_fraction": self.validation_fraction,
        }
        if not self.validation_fraction:
            fixed["patience"] = None
        return replace(stage, name="vae", training=fixed)

    def labels(self, stages: list[Stage]) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Return the function that spreads labels over the latents of the VAE in `stages`, or None."""
        if not (self.spread and stages):
            return None
        return _spreading(stages[0].pair, self.neighbours)


def check_classes(model: str, num_classes: int) -> None:
    """Refuse data without classes.

    Raises:
        InputError: there are fewer than 2 classes.
    """
    if num_classes < 2:
        raise InputError(
            f"num_classes is {num_classes}; {model} learns classes and needs at least 2 of them: give "
            "data with classes (y_train and y_test, or y, in the .npz file; or images in a folder for each "
            "class)."
        )


def _spreading(vae: Any, neighbours: int) -> Callable[[Tensor, Tensor], Tensor]:
    def spread(x: Tensor, y: Tensor) -> Tensor:
        from pyrovae.generation import latent_means
        from pyrovae.semi_supervised import spread_labels

        if bool((y >= 0).all()):
            return y
        return spread_labels(latent_means(vae, x), y, neighbours)

    return spread
