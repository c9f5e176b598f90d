"""Images of a model with classes: samples of each class, and the style of a datum in every class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyrovae.errors import InputError, check_counts
from pyrovae.generation.codes import encoded
from pyrovae.generation.generator import Generator, Images, as_images, each, joined
from pyrovae.generation.prior import draws, images_of_draws
from pyrovae.programs.devices import back_to_caller
from pyrovae.programs.pair import ModelAndGuide, takes_pair


@takes_pair
@back_to_caller
def num_classes(pair: ModelAndGuide, *, given: Mapping[str, Any] | None = None) -> int:
    """Return C, the number of classes of a model.

    Args:
        pair: a pair.
        given: further arguments of both programs by name, such as a condition, with one row `(1, ...)`.
            None means nothing.

    Raises:
        InputError: the model has no classes.
    """
    return Generator(pair, given).known_class_site().num_classes


@takes_pair
@back_to_caller
def classes_behind(
    pair: ModelAndGuide, site: str | None = None, *, given: Mapping[str, Any] | None = None
) -> set[str]:
    """Return the class sites that x depends on when a latent is given.

    Args:
        pair: a pair.
        site: the latent. None means the one that the model samples last before the data.
        given: further arguments of both programs by name, such as a condition, with one row `(1, ...)`.
            None means nothing.

    Raises:
        InputError: there is no such latent.
    """
    generator = Generator(pair, given)
    return generator.classes_behind(generator.code_site(site))


@takes_pair
@back_to_caller
def class_samples(
    pair: ModelAndGuide,
    count: int = 10,
    candidates: int = 100,
    seed: int = 0,
    *,
    mean: bool = True,
    given: Mapping[str, Any] | None = None,
) -> Images:
    """Return E[x | y, z], or draws of x, for draws z ~ p(z | y) of each class.

    Args:
        pair: a trained pair.
        count: N, the number of draws of each class.
        candidates: the number of draws from which one is kept, if the class is predicted from z.
        seed: the seed of the random draws. The caller's random stream does not change.
        mean: return means of x. If false, x is drawn.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each draw. None means nothing.

    Returns:
        `(C, N, *x_shape)`; a dictionary of them if several sites observe the data.

    Raises:
        InputError: the model has no classes, or for the reasons given at `draw_latents`.
    """
    check_counts(count=count)
    try:
        generator = Generator(pair, given, count=count)
    except InputError:  # the more telling error is that the model has no classes, whatever its rows are
        first = {n: v[:1] if isinstance(v, Tensor) and v.dim() else v for n, v in (given or {}).items()}
        Generator(pair, first).known_class_site()
        raise
    y = torch.arange(generator.known_class_site().num_classes)
    rows = torch.arange(count).repeat(len(y))
    images = _samples(generator, y.repeat_interleave(count), rows, candidates, seed, mean)
    return each(images, lambda values: values.unflatten(0, (len(y), count)))


@takes_pair
@back_to_caller
def samples_of_classes(
    pair: ModelAndGuide,
    y: Tensor,
    candidates: int = 100,
    seed: int = 0,
    *,
    mean: bool = True,
    given: Mapping[str, Any] | None = None,
) -> Images:
    """Return E[x | y, z], or a draw of x, for each of the given classes and one draw z ~ p(z | y) for it.

    Args:
        pair: a trained pair.
        y: classes `(N,)`.
        candidates: the number of draws from which one is kept, if the class is predicted from z.
        seed: the seed of the random draws. The caller's random stream does not change.
        mean: return means of x. If false, x is drawn.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each draw. None means nothing.

    Returns:
        `(N, *x_shape)`, where y is; a dictionary of them if several sites observe the data.

    Raises:
        InputError: there are no classes, or for the reasons given at `draw_latents`.
    """
    check_counts(**{"the number of classes in y": len(y)})
    generator = Generator(pair, given, count=len(y))
    generator.check_classes(y, len(y))
    return _samples(generator, y, torch.arange(len(y)), candidates, seed, mean)


def _samples(
    generator: Generator, y: Tensor, rows: Tensor, candidates: int, seed: int, mean: bool
) -> Images:
    """Return images of classes `(N,)`, for the indices `(N,)` of what is given with them."""
    site, _ = generator.known_class_site()
    order, parts = [], []
    for label in y.unique().tolist():
        order.append((y == label).nonzero().squeeze(1))
        drawn = draws(generator, rows[order[-1]], label, candidates, seed + label)
        drawn.latents[site] = generator.class_values(y[order[-1]])
        parts.append(images_of_draws(generator, drawn, rows[order[-1]], seed + label, mean))
    places = torch.cat(order).argsort()
    return as_images({name: values[places] for name, values in joined(parts).items()})


@takes_pair
@back_to_caller
def analogies(pair: ModelAndGuide, x: Tensor, *, given: Mapping[str, Any] | None = None) -> Images:
    """Decode each datum's style in every class (Kingma et al. 2014, figure 1).

    The latents are at the guide's means for the datum, and the class is set to 0, 1, ..., C - 1.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each datum. None means nothing.

    Returns:
        `(N, C, *x_shape)`, where the data are; a dictionary of them if several sites observe the data.

    Raises:
        InputError: the model has no classes, or x does not depend on them.
    """
    generator = Generator(pair, given, x)
    label, classes = generator.known_class_site()
    if not generator.descendants(label).intersection(generator.data_sites):
        raise InputError(
            f"in a {generator.name} the class '{label}' is predicted from the latents and x does not "
            "depend on it, so there is no style apart from it: draw class_samples instead."
        )
    codes = generator.without_descendants(encoded(generator), label)
    codes = generator.each_of_data(codes, lambda values: values.repeat_interleave(classes, 0))
    codes[label] = generator.class_values(torch.arange(classes).repeat(len(x)))
    images = generator.images(codes, torch.arange(len(x)).repeat_interleave(classes))
    return each(images, lambda values: values.unflatten(0, (len(x), classes)))
