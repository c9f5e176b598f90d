"""Draw images in rows and columns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patheffects import withStroke
from torch import Tensor

from pyrovae.canvas import Canvas
from pyrovae.compute.devices import on_the_cpu
from pyrovae.errors import InputError
from pyrovae.plots.style import figure_of

_TILE, _WIDEST = 0.7, 20.0  # inches: the smallest side of a tile, and the widest grid
_PIXELS = 130  # the pixels of an image for each inch: each has one of its own in a file of 150 dpi


def in_channels(values: Tensor) -> Tensor | None:
    """Return data if they are images, `(..., C, H, W)` with C = 1 (grey) or 3 (colour); else None."""
    return values if values.dim() >= 4 and values.shape[-3] in (1, 3) else None


@on_the_cpu
def image_grid(
    images: Tensor,
    title: str = "",
    row_labels: Sequence[str] = (),
    axes: Axes | None = None,
    column_labels: Sequence[str] = (),
    within: SubFigure | None = None,
    tile_labels: Sequence[str] = (),
) -> Figure:
    """Draw rows of images.

    Images with many pixels get larger tiles. Where there is no room for each pixel, neighbours are
    averaged, so that no thin line is lost.

    Args:
        images: images `(rows, columns, C, H, W)` with C = 1 (grey) or 3 (colour). Values below 0 are drawn
            as 0, and values above 1 as 1.
        title: the title above the grid.
        row_labels: labels on the left, one for each row, or none.
        axes: the axes to draw in; by default those of `within`, or of a new figure.
        column_labels: labels at the top, one for each column, or none.
        within: a subfigure to draw in.
        tile_labels: labels within the images, row by row, or none.

    Raises:
        InputError: `images` are not images.

    Example:
        >>> import torch
        >>> figure = image_grid(torch.rand(2, 5, 1, 28, 28), "Noise", ["first", "second"])
    """
    if images.dim() != 5 or images.shape[2] not in (1, 3):
        raise InputError(
            f"data of shape {tuple(images.shape[2:])} are not images (C, H, W) with 1 or 3 "
            "channels: give images, or vectors reshaped to images. Vectors are drawn by plots.samples, "
            "plots.reconstructions, plots.pairs and plots.traversal (on the command line sample, "
            "reconstruct, pairs and traverse)."
        )
    rows, columns, _, height, width = images.shape
    if axes is None:
        side = tile_side(images)
        new = Canvas(figsize=(side * columns + 0.6, side * rows * height / width + 0.5), layout="tight")
        axes = (new if within is None else within).subplots()
    gap = max(1, height // 14)
    tiles = torch.nn.functional.pad(images.clamp(0, 1), (gap, gap, gap, gap), value=1.0)
    sheet = tiles.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).numpy()
    sheet = sheet[..., 0] if sheet.shape[-1] == 1 else sheet  # grey, or colour
    # Pixels are averaged where they are too small to be seen, and sharp where they are large.
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
    axes.set_title(title, fontsize=10)
    axes.xaxis.tick_top()
    axes.set_xticks(_middles(len(column_labels), width + 2 * gap), column_labels)
    if max(map(len, column_labels), default=0) > 6:  # too long to stand side by side
        axes.set_xticks(axes.get_xticks(), column_labels, rotation=40, ha="left")
    axes.set_yticks(_middles(len(row_labels), height + 2 * gap), row_labels)
    for number, label in enumerate(tile_labels):
        row, column = divmod(number, columns)
        place = column * (width + 2 * gap) + gap, row * (height + 2 * gap) + gap
        outline = [withStroke(linewidth=2, foreground="black")]
        size = min(8.0, 50 / len(label))
        axes.text(*place, label, ha="left", va="top", fontsize=size, color="white", path_effects=outline)
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    return figure_of(axes)


def tile_side(images: Tensor) -> float:
    """Return the width of an image of a grid `(rows, columns, C, H, W)` in a new figure, in inches."""
    return max(_TILE, min(1.15 * images.shape[-1] / _PIXELS, _WIDEST / images.shape[1]))


@on_the_cpu
def grid_beside(
    left: Tensor,
    right: Tensor,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    left_rows: Sequence[str] = (),
    left_column: str = "",
) -> Figure:
    """Draw a column of images, and to its right a grid of images made from them.

    Args:
        left: the column, `(rows, 1, C, H, W)`.
        right: the grid, `(rows, columns, C, H, W)`.
        row_labels: the labels of the grid's rows.
        column_labels: the labels of the grid's columns.
        left_rows: the labels of the column's rows.
        left_column: the label above the column.
    """
    rows, columns = len(left), right.shape[1]
    side = tile_side(right)
    figure = Canvas(figsize=(side * columns + 1.3 + side, side * rows + 1), layout="constrained")
    one, many = figure.subplots(1, 2, width_ratios=[1, columns])
    image_grid(left, row_labels=left_rows, axes=one, column_labels=[left_column])
    image_grid(right, row_labels=row_labels, axes=many, column_labels=column_labels)
    return figure


def _middles(count: int, size: int) -> list[float]:
    return [(cell + 0.5) * size - 0.5 for cell in range(count)]
