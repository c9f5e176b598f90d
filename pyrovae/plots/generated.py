"""Figures of data that a model generates: images in a grid, or the columns of vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from pyrovae import generation
from pyrovae.compute.devices import on_the_cpu
from pyrovae.generation import as_grey, only_site
from pyrovae.plots.classes import shown_name
from pyrovae.plots.columns import draw_marginals
from pyrovae.plots.completing import Complete, completed
from pyrovae.plots.grids import image_grid, in_channels
from pyrovae.programs.pair import ModelAndGuide
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
    within: SubFigure | None = None,
) -> Figure:
    """Draw what the model generates: images in a grid, or a histogram of each column of vectors.

    Vectors are draws of x beside the data, since means vary less than data do.

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
        within: the subfigure to draw in; by default a new figure.

    Raises:
        InputError: the model cannot generate, or several of its sites observe data.

    Example:
        >>> from pyrovae import plots
        >>> from pyrovae.models import PPCA
        >>> figure = plots.samples(PPCA((1, 8, 8), 2), 20)
    """
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
    return image_grid(grid, f"Samples: {what}, latents drawn from the prior", within=within)


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
