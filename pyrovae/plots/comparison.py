"""A figure of models that are compared by their evidence."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyrovae.canvas import Canvas
from pyrovae.errors import InputError
from pyrovae.evaluation.comparison import Comparison
from pyrovae.plots.style import figure_of, hide_top_and_right


def comparison(models: Comparison, axes: Axes | None = None) -> Figure:
    """Draw how far each model is below the best one, with one and two standard errors of the difference.

    Args:
        models: what `pyrovae.evaluation.compare` returned.
        axes: the axes to draw in; by default those of a new figure.

    Raises:
        InputError: `models` is something else.
    """
    if not isinstance(models, Comparison):
        raise InputError(
            f"comparison takes a comparison of models, but was given a {type(models).__name__}: give what "
            "pyrovae.evaluation.compare returned."
        )
    rows = models.models
    if axes is None:
        width = 6 + 0.08 * max(len(row.name) for row in rows)
        axes = Canvas(figsize=(width, 1.3 + 0.4 * len(rows)), layout="constrained").subplots()
    places = range(len(rows))
    below = [-row.difference for row in rows]
    errors = [row.difference_std_error for row in rows]
    colour = "C0"
    axes.errorbar(below, places, xerr=[2 * error for error in errors], fmt="none", color=colour, lw=1)
    axes.errorbar(below, places, xerr=errors, fmt="o", color=colour, lw=3)
    axes.axvline(0, color="grey", lw=1, ls=":")
    axes.set_yticks(places, [f"{row.name}  ({row.mean:.2f})" for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("log p(x) minus that of the best model, nats per datum")
    axes.set_title(f"Evidence on {models.num_data} data, with 1 and 2 standard errors", fontsize=10)
    hide_top_and_right(axes)
    return figure_of(axes)
