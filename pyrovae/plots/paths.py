"""Figures of walks through latent space: between data, along one dimension, and over a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae import generation
from pyrovae.compute.devices import on_the_cpu
from pyrovae.errors import InputError, check_counts
from pyrovae.evaluation import most_active_dimensions
from pyrovae.generation import LEVELS, Generator, as_grey, latent_means, only_site
from pyrovae.generation.interpolation import weights_in_square, weights_on_line
from pyrovae.plots.classes import shown_name
from pyrovae.plots.columns import draw_moved_columns
from pyrovae.plots.completing import Complete, completed
from pyrovae.plots.dimensions import dimension_names
from pyrovae.plots.grids import grid_beside, image_grid, in_channels
from pyrovae.programs.pair import ModelAndGuide, with_shape_of
from pyrovae.programs.rows import Arguments


@on_the_cpu
def interpolation(
    pair: ModelAndGuide,
    start: Tensor,
    end: Tensor,
    steps: int = 12,
    *,
    site: str | None = None,
    given: Mapping[str, Any] | None = None,
    given_end: Mapping[str, Any] | None = None,
    complete: Complete | None = None,
) -> Figure:
    """Draw decoded straight lines in latent space, each from one image (left) to another (right).

    Args:
        pair: a trained pair.
        start: the images at which the lines start, `(N, *x_shape)`.
        end: the images at which they end, `(N, *x_shape)`.
        steps: the number of images on each line.
        site: the latent to move. None means all latents.
        given: further arguments of both programs by name, a row for each line. None means nothing.
        given_end: what is given with the ends; by default what is given with the starts.
        complete: a function that puts what is given into the images, as in `completing.Complete`; the rows
            2n and 2n + 1 are those of line n's start and end. By default images are shown as they are.

    Raises:
        InputError: the data are not images or do not fit together, or there is no such latent.
    """
    both = {"given": given, "given_end": given_end}
    lines = only_site(generation.interpolate(pair, start, end, steps, site, **both))
    title = "Interpolation in latent space between two images, reconstructed at both ends"
    nearer = torch.arange(2 * len(start)).view(-1, 2)[:, weights_on_line(steps).argmax(-1)]
    lines = completed(lines, nearer, complete)
    return image_grid(lines, title + _jumps(pair, start, site, given, "nearer end"))


@on_the_cpu
def interpolation_grid(
    pair: ModelAndGuide,
    corners: Tensor,
    steps: int = 9,
    *,
    site: str | None = None,
    given: Mapping[str, Any] | None = None,
    complete: Complete | None = None,
) -> Figure:
    """Draw the decoded square in latent space between four images at its corners.

    Args:
        pair: a trained pair.
        corners: the images, `(4, *x_shape)`: top left, top right, bottom left, bottom right.
        steps: the number of images on each side.
        site: the latent to move. None means all latents.
        given: further arguments of both programs by name, a row for each corner. None means nothing.
        complete: a function that puts what is given into the images, as in `completing.Complete`; by
            default they are shown as they are.

    Raises:
        InputError: the data are not four images, or there is no such latent.
    """
    images = only_site(generation.interpolate_grid(pair, corners, steps, site, given=given))
    title = "Interpolation in latent space between four images (the corners)"
    nearest = weights_in_square(steps).argmax(-1).view(steps, steps)
    images = completed(images, nearest, complete)
    return image_grid(images, title + _jumps(pair, corners, site, given, "nearest corner"))


def _jumps(
    pair: ModelAndGuide, x: Tensor, site: str | None, given: Mapping[str, Any] | None, where: str
) -> str:
    """Return a line of a title that says what is not interpolated, but changes halfway."""
    generator = Generator(pair, given, x)
    classes = generator.classes_behind(generator.code_site(site))
    what = " and ".join(["class y"] * bool(classes) + ["condition"] * bool(given))
    return f"\nThe {what} {'are' if ' and ' in what else 'is'} the {where}'s" if what else ""


@on_the_cpu
def manifold(
    pair: ModelAndGuide,
    steps: int = 15,
    label: int | None = None,
    *,
    site: str | None = None,
    given: Mapping[str, Any] | None = None,
    condition: str = "",
    complete: Complete | None = None,
    class_names: Sequence[str] = (),
) -> Figure:
    """Draw the images that a plane of latents decodes to, at the prior's quantiles.

    Args:
        pair: a trained pair with a 2-D latent.
        steps: the number of images on each side.
        label: the class, for a model whose images depend on one.
        site: the latent. None means the one that the model samples last before the data.
        given: further arguments of both programs by name, with one row. None means nothing.
        condition: words for what is given, for the title.
        complete: a function that puts what is given into the images, as in `completing.Complete`; by
            default they are shown as they are.
        class_names: the names of the classes; by default their numbers.

    Raises:
        InputError: the latent is not 2-D or has no prior, or a class is missing.
    """
    images = only_site(generation.manifold(pair, steps, label, site, given=given))
    name = generation.prior_site(pair, site, given=given)
    of_class = "" if label is None else f", y = {shown_name(class_names[label]) if class_names else label}"
    images = completed(images, torch.zeros(steps, steps, dtype=torch.long), complete)
    title = f"The latent plane: E[x | {name}{of_class}] at the prior's quantiles, 1% to 99%"
    figure = image_grid(images, f"{title}\ngiven {condition}" if condition else title)
    (axes,) = figure.axes
    axes.set_xlabel(f"{name}[0] grows to the right")
    axes.set_ylabel(f"{name}[1] grows upwards")
    return figure


@on_the_cpu
def traversal(
    pair: ModelAndGuide,
    x: Tensor,
    index: int = 0,
    dimensions: int = 10,
    *,
    site: str | None = None,
    given: Mapping[str, Any] | None = None,
    complete: Complete | None = None,
    column_names: Sequence[str] = (),
) -> Figure:
    """Move one latent dimension at a time through the prior's quantiles, from the code of a datum.

    Of images there is a row of images for each dimension. Of vectors, a table shows how far each dimension
    moves each column.

    Args:
        pair: a trained pair.
        x: data, `(N, *x_shape)`. The dimensions with the most variable means over them come first.
        index: the number of the datum to start from, counted from 0.
        dimensions: the number of dimensions.
        site: the latent. None means the one that the model samples last before the data.
        given: further arguments of both programs by name, a row for each datum. None means nothing.
        complete: a function that puts what is given into the images, as in `completing.Complete`; by
            default they are shown as they are.
        column_names: the names of the columns of vectors; by default x[0], x[1], ...

    Raises:
        InputError: there is no such datum or latent, or the latent has no prior.
    """
    check_counts(dimensions=dimensions)
    if not 0 <= index < len(x):
        raise InputError(f"index is {index}; choose a datum from 0 to {len(x) - 1}.")
    pair = with_shape_of(pair, x)
    name = generation.prior_site(pair, site, given=_one(x, given, index).kwargs)
    means = latent_means(pair, x, name, given=given)
    first = [*range(min(dimensions, means[0].numel()))]  # one datum tells nothing of what varies
    shown = most_active_dimensions(means.reshape(len(x), -1), dimensions) if len(x) > 1 else first
    (datum,), alone = _one(x, given, index)
    moved = only_site(generation.traverse(pair, datum[0], shown, site=name, given=alone))
    made = only_site(generation.reconstruct(pair, datum, given=alone))
    names = dimension_names(name, shown)
    images, seen = in_channels(moved), as_grey(pair, x, given=given)
    if images is None:
        return draw_moved_columns(moved, seen, names, LEVELS, column_names)
    row = torch.full((1,), index)
    made = completed(made, row, complete)
    images = completed(images, row.expand(images.shape[:2]), complete)
    pairs = torch.stack([seen[index].to(made), made[0]]).reshape(2, *images.shape[2:])
    blank = torch.ones_like(images[:, 0])
    left = torch.cat([pairs, blank])[: max(2, len(images)), None]
    columns = [f"{100 * level:g}%" for level in LEVELS]
    figure = grid_beside(left, images, names, columns, left_rows=["image", "E[x | z]"])
    figure.suptitle(
        "Latent traversals: in each row one dimension moves through the prior's quantiles,\n"
        "the others stay at the posterior mean of the image on the left",
        fontsize=10,
    )
    return figure


def _one(x: Tensor, given: Mapping[str, Any] | None, index: int) -> Arguments:
    """Return one of the data, with its row of what is given."""
    return Arguments((x,), given or {}).rows(slice(index, index + 1))
