"""The recipe of the conditional VAE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pyrovae.errors import InputError
from pyrovae.recipes.about import About
from pyrovae.recipes.components import (
    Count,
    Likelihood,
    Network,
    Objective,
    Parts,
    Posterior,
    make_objective,
    start_at_data,
)
from pyrovae.recipes.options import OptionError
from pyrovae.recipes.plan import Plan, Stage
from pyrovae.recipes.recipe import recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

Condition = Literal["class", "quadrant", "half", "three-quarters"]


@recipe()
def cvae(
    about: About,
    *,
    condition: Condition = "class",
    latent_dim: Count = 10,
    likelihood: Likelihood = "auto",
    posterior: Posterior = "normal",
    network: Network = "mlp",
    width: Count = 256,
    objective: Objective = "elbo",
    **of_components: Any,
) -> Plan:
    """Conditional VAE: z ~ p(z | c), x ~ p(x | z, c), given a class or a part of the image.

    Args:
        condition: What is given: the class, or pixels. These are the image's lower left quadrant, its left
            half, or all but its lower right quadrant; the model completes the rest.
        latent_dim: The number of dimensions of z.
        likelihood: The likelihood p(x | z, c).
        posterior: The posterior q(z | x, c).
        network: The network of encoder and decoder.
        width: The width of hidden layers. A convolutional network begins with an eighth as many channels.
        objective: The objective.
    """
    from pyrovae.models import CVAE
    from pyrovae.networks import Joined
    from pyrovae.posteriors import DiagonalNormal

    parts = Parts(
        about,
        likelihood=likelihood,
        posterior=posterior,
        network=network,
        latent_dim=latent_dim,
        width=width,
        options=of_components,
    )
    if condition == "class" and about.num_classes < 2:
        raise InputError(
            f"num_classes is {about.num_classes}; cvae is given a class and needs at least 2 of them: give "
            "data with classes, or choose another condition, such as condition='half'."
        )
    if condition != "class" and len(about.x_shape) != 3:
        raise OptionError(
            f"condition is {condition}, a part of an image, but one datum has shape {about.x_shape}: use "
            "condition=class, or data of shape (channels, height, width)."
        )
    size = about.num_classes if condition == "class" else width

    def of_condition() -> nn.Module | None:
        return None if condition == "class" else parts.features()  # a class enters as a one-hot vector

    model = CVAE(
        DiagonalNormal(Joined(parts.mixer(size), of_condition()), latent_dim),
        parts.make_likelihood(Joined(parts.decoder(latent_dim + size), None, of_condition())),
        parts.make_posterior(Joined(parts.mixer(width + size), parts.features(), of_condition())),
    )
    stage = Stage(
        model,
        objective=make_objective(objective, of_components),
        start=start_at_data(model.likelihood),
        given=_class(about.num_classes) if condition == "class" else _part(condition),
        complete=None if condition == "class" else _complete,
    )
    return Plan([stage], pixels=parts.pixels)


def _class(num_classes: int) -> Callable[[Any, Tensor | None], Mapping[str, Tensor]]:
    """Return the function that gives the class of each datum, `(N, C)`, as a one-hot vector."""

    def given(x: Any, y: Tensor | None) -> Mapping[str, Tensor]:
        import torch

        if y is None or bool((y < 0).any()):
            found = "none is given" if y is None else f"{int((y < 0).sum())} of {len(y)} are unknown"
            raise InputError(
                f"cvae has the class of each datum as its condition, but {found}: give the classes of all "
                "data, or choose another condition, such as condition='half'."
            )
        return {"c": torch.eye(num_classes)[y.long()]}

    return given


def _part(condition: str) -> Callable[[Any, Tensor | None], Mapping[str, Tensor]]:
    """Return the function that gives a part of each image: its pixels, and which are to be scored."""

    def given(x: Any, y: Tensor | None) -> Mapping[str, Tensor]:
        import torch

        if not isinstance(x, torch.Tensor):
            raise InputError(
                f"the condition is a part of each image, but a {type(x).__name__} is read item by item: "
                "give the images as a tensor, or choose condition='class'."
            )
        known = torch.zeros(x.shape[1:], dtype=torch.bool)
        height, width = (size // 2 for size in x.shape[-2:])
        known[..., height:, :width] = True
        known[..., :width] |= condition != "quadrant"
        known[..., :height, :] |= condition == "three-quarters"
        return {"c": x * known, "observed": ~known.expand(x.shape)}

    return given


def _complete(images: Tensor, given: Mapping[str, Tensor]) -> Tensor:
    """Put the given pixels in their places. What the model computes there was never scored."""
    return images.where(given["observed"], given["c"])
