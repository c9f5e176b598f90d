"""Figures of data that a model generates: images in a grid, or the columns of vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from pyrovae import generation
from pyrovae.compute.devices import on_the_cpu
from pyrovae.data.checks import holds_classes
from pyrovae.generation import as_grey, only_site
from pyrovae.plots.classes import named_classes, shown_name
from pyrovae.plots.columns import draw_marginals
from pyrovae.plots.completing import Complete, completed
from pyrovae.plots.grids import image_grid, in_channels
from pyrovae.programs.classes import are_one_hot
from pyrovae.programs.pair import ModelAndGuide, with_shape_of
from pyrovae.programs.rows import Arguments

_IMAGES, _VECTORS = 100, 1000  # the numbers of draws that are shown by default


@on_the_cpu
def samples(
    pair: ModelAndGuide,
    count: int | None = None,
    *,
    x: Tensor | None = None,
    mean: bool = True,
    seed: int = 0,
    given: Mapping[str, Any] | None = None,
    columns: int = 10,
    complete: Complete | None = None,
    column_names: Sequence[str] = (),
    class_names: Sequence[str] = (),
    within: SubFigure | None = None,
) -> Figure:
    """Draw what the model generates: images in a grid, or a histogram of each column of vectors.

    Vectors are draws of x beside the data, since means vary less than data do. If a class is given with
    each image, as a whole number or as a one-hot row, each image or row shows its name.

    Args:
        pair: a trained pair.
        count: the number of draws. None means 100 images, or 1,000 vectors.
        x: the data to compare vectors with, `(N, *x_shape)`. None means that the draws stand alone.
        mean: show E[x | z] for draws of z. If false, x is drawn. This is for images.
        seed: the seed of the random draws.
        given: further arguments of both programs by name, a row for each draw. None means nothing.
        columns: the number of images in a row.
        complete: a function that puts what is given into the images, as in `completing.Complete`; by
            default they are shown as they are.
        column_names: the names of the columns of vectors; by default x[0], x[1], ...
        class_names: the names of the classes that are given; by default their numbers.
        within: the subfigure to draw in; by default a new figure.

    Raises:
        InputError: the model cannot generate, several of its sites observe data, or a class that is given
            has no name.

    Example:
        >>> from pyrovae import plots
        >>> from pyrovae.models import PPCA
        >>> figure = plots.samples(PPCA((1, 8, 8), 2), 20)
    """
    pair = with_shape_of(pair, x)
    how: Any = {"seed": seed, "given": given}
    number = _IMAGES if count is None else count
    images = in_channels(only_site(generation.samples(pair, number, mean=mean, **how)))
    if images is None:
        number = _VECTORS if count is None and given is None else number
        drawn = only_site(generation.samples(pair, number, **how))
        one = Arguments((drawn,), given or {}).rows(slice(1)).kwargs
        shown = None if x is None else as_grey(pair, x, given=one)
        return draw_marginals(drawn, shown, column_names, within)
    images = completed(images, torch.arange(len(images)), complete)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    blank = images.new_ones(rows * columns - len(images), *images.shape[1:])
    grid = torch.cat([images, blank]).unflatten(0, (rows, columns))
    what = "means of p(x | latents)" if mean else "draws from p(x | latents)"
    labels: Any = {}
    if (y := _given_classes(given, len(images))) is not None:
        names = named_classes(y, len(images), class_names)
        of_images = [names[label] for label in y.tolist()]
        by_rows = len(blank) == 0 and bool((y.view(rows, columns) == y.view(rows, columns)[:, :1]).all())
        labels = {"row_labels": of_images[::columns]} if by_rows else {"tile_labels": of_images}
    return image_grid(grid, f"Samples: {what}, latents drawn from the prior", within=within, **labels)


def _given_classes(given: Mapping[str, Any] | None, count: int) -> Tensor | None:
    """Return the classes `(count,)` that are given with draws; None if there is no such tensor, or several.

    They are whole numbers from 0 on, or one-hot rows.
    """
    found = []
    for value in (given or {}).values():
        if not isinstance(value, Tensor) or not value.dim() or len(value) != count:
            continue
        if value.dim() == 1 and holds_classes(value) and bool((value >= 0).all()):
            found.append(value.cpu())
        elif value.dim() == 2 and are_one_hot(value):
            found.append(value.argmax(1).cpu())
    return found[0] if len(found) == 1 else None


@on_the_cpu
def class_samples(
    pair: ModelAndGuide,
    count: int = 10,
    *,
    candidates: int = 100,
    mean: bool = True,
    seed: int = 0,
    given: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
) -> Figure:
    """Draw images that the model generates of each class, a row for each class.

    Args:
        pair: a trained pair with classes.
        count: the number of images of each class.
        candidates: the number of draws from which one is kept, if the class is predicted from z.
        mean: show E[x | y, z]. If false, x is drawn.
        seed: the seed of the random draws.
        given: further arguments of both programs by name, a row for each of the `count` draws. None means
            nothing.
        class_names: the names of the classes; by default their numbers.

    Raises:
        InputError: the model has no classes or generates no images.
    """
    images = only_site(generation.class_samples(pair, count, candidates, seed, mean=mean, given=given))
    what = "means of p(x | latents)" if mean else "draws from p(x | latents)"
    title = f"Samples given the class: {what}, latents drawn from p(z | y)"
    names = [*map(shown_name, class_names)] or [str(label) for label in range(len(images))]
    return image_grid(images, title, names)
