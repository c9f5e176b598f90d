"""Colours and axes that the figures share."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
"""Ten colours that differ for readers with any kind of colour vision (Petroff 2021)."""

GREY = "#bbbbbb"
"""The colour of draws from the prior."""

MARKERS = "o^sDvP*X"
"""A marker for each ten classes, since there are ten colours."""


def hide_top_and_right(axes: Axes) -> None:
    """Remove the frame's top and right edges."""
    axes.spines[["top", "right"]].set_visible(False)


def figure_of(axes: Axes) -> Figure:
    """Return the whole figure that the axes are in, even if they are in a subfigure."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure
