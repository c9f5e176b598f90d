"""Colours, panels and axes that the figures share."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase, SubFigure

from pyrovae.canvas import Canvas

COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
"""Ten colours that differ for readers with any kind of colour vision (Petroff 2021)."""

GREY = "#bbbbbb"
"""The colour of draws from the prior."""

MARKERS = "o^sDvP*X"
"""A marker for each ten classes, since there are ten colours."""


def place(within: SubFigure | None, width: float, height: float) -> FigureBase:
    """Return the subfigure to draw in, or a new figure of a size in inches."""
    return Canvas(figsize=(width, height), layout="constrained") if within is None else within


def panels(
    count: int,
    within: SubFigure | None,
    width: float,
    row: float = 2.2,
    columns: int | None = None,
) -> tuple[FigureBase, list[Axes]]:
    """Make panels in rows and columns.

    Args:
        count: the number of panels.
        within: the subfigure to draw in. None means a new figure.
        width: the largest width of a new figure, in inches.
        row: the height of a row in a new figure, in inches.
        columns: the number of columns; by default it depends on the number of panels.
    """
    wide = 1.5 if within is None else 1.0
    most = columns or (count if count <= 3 else math.ceil(math.sqrt(count * wide)))
    rows = math.ceil(count / most)
    columns = math.ceil(count / rows)  # so that the last row is as full as can be
    figure = place(within, min(width, 2 + 3 * columns), 1 + row * rows + 1.5 * (rows == 1))
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for empty in axes[count:]:
        empty.remove()
    return figure, [*axes[:count]]


def point_area(count: int) -> float:
    """Return the area of a point in square points, smaller for more points so that they do not overlap."""
    return float(np.clip(12_000 / count, 5, 30))


def hide_top_and_right(axes: Axes) -> None:
    """Remove the frame's top and right edges."""
    axes.spines[["top", "right"]].set_visible(False)


def whole(figure: FigureBase) -> Figure:
    """Return the whole figure that a figure or a subfigure belongs to."""
    root: Figure = figure.figure  # type: ignore[assignment]  # of a subfigure it is the whole figure, too
    return root


def figure_of(axes: Axes) -> Figure:
    """Return the whole figure that the axes are in, even if they are in a subfigure."""
    return whole(axes.figure)
