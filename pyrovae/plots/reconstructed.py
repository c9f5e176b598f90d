"""Figures of data beside what a model makes of them: reconstructions, and styles in other classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from pyrovae import generation
from pyrovae.compute.devices import on_the_cpu
from pyrovae.errors import check_counts
from pyrovae.generation import as_grey, only_site
from pyrovae.plots.classes import shown_name
from pyrovae.plots.columns import draw_reconstructed_columns
from pyrovae.plots.completing import Complete, completed
from pyrovae.plots.grids import grid_beside, image_grid, in_channels
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.rows import Arguments


@on_the_cpu
def reconstructions(
    pair: ModelAndGuide,
    x: Tensor,
    count: int = 10,
    *,
    original: Tensor | None = None,
    given: Mapping[str, Any] | None = None,
    complete: Complete | None = None,
    column_names: Sequence[str] = (),
    within: SubFigure | None = None,
) -> Figure:
    """Draw data and their reconstructions E[x | z] at the posterior mean.

    Images stand above their reconstructions. Of vectors, each column is drawn against its reconstruction.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.
        count: the number of images to show, the first ones. All vectors are shown.
        original: the images before they were binarised, drawn on top; by default none.
        given: further arguments of both programs by name, a row for each datum. None means nothing.
        complete: a function that puts what is given into the images, as in `completing.Complete`; by
            default they are shown as they are.
        column_names: the names of the columns of vectors; by default x[0], x[1], ...
        within: the subfigure to draw in; by default a new figure.

    Raises:
        InputError: the pair does not run on the data, or several of its sites observe data.

    Example:
        >>> import torch
        >>> from pyrovae import plots
        >>> from pyrovae.models import PPCA
        >>> figure = plots.reconstructions(PPCA((3,), 2), torch.randn(50, 3), column_names=["a", "b", "c"])
    """
    if images := in_channels(x) is not None:
        check_counts(count=count)
        (x,), given = Arguments((x,), given or {}).rows(slice(count))
    made = only_site(generation.reconstruct(pair, x, given=given))
    seen = as_grey(pair, x, given=given)
    if not images:
        return draw_reconstructed_columns(seen, made, column_names, within)
    made = completed(made, torch.arange(len(made)), complete)
    rows = {"x": seen, "E[x | z]": made}
    if original is not None:
        rows = {"grey image": original[:count].cpu(), "binarised x": seen, "E[x | z]": made}
    grid = torch.stack([values.to(made) for values in rows.values()])
    return image_grid(grid, "Reconstructions at the posterior mean", [*rows], within=within)


@on_the_cpu
def analogies(
    pair: ModelAndGuide,
    x: Tensor,
    *,
    given: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
) -> Figure:
    """Draw images, and beside each its style in every class (Kingma et al. 2014, figure 1).

    Args:
        pair: a trained pair with classes.
        x: the images, `(N, *x_shape)`.
        given: further arguments of both programs by name, a row for each datum. None means nothing.
        class_names: the names of the classes; by default their numbers.

    Raises:
        InputError: the data are not images, the model has no classes, or x does not depend on them.
    """
    images = only_site(generation.analogies(pair, x, given=given))
    names = [*map(shown_name, class_names)] or [str(label) for label in range(images.shape[1])]
    left = as_grey(pair, x, given=given)[:, None]
    figure = grid_beside(left, images, [], names, left_column="image")
    figure.suptitle("Analogies: an image, and its style z in every class y: E[x | y, z]", fontsize=10)
    return figure
