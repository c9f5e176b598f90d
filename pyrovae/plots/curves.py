"""Figures of training: the bound, and terms outside of it, over the epochs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyrovae.plots.style import figure_of, hide_top_and_right
from pyrovae.training.history import COLUMNS, History

_BOUNDS = {
    "elbo": "training ELBO",
    "validation_elbo": "validation ELBO",
    "validation_bound": "validation bound, importance-weighted",
}


def term_labels(pair: object) -> Mapping[str, str]:
    """Return the labels that a model declares for its terms, in its attribute `term_labels`.

    Returns:
        A label for each column of the history that needs one; empty for a model without this attribute.
    """
    labels: Mapping[str, str] = getattr(pair, "term_labels", {})
    return labels


def learning_curves(
    history: History, axes: Axes | None = None, labels: Mapping[str, str] | None = None
) -> Figure:
    """Draw the bound on training and validation data over the epochs, in nats per datum.

    If semi-supervised training recorded further terms, a new figure has a second panel with them
    (`class_curves`).

    Args:
        history: the history of the training.
        axes: the axes to draw the bound in; by default those of a new figure.
        labels: the labels of the further terms; see `class_curves`.
    """
    if axes is None:
        if class_terms(history):
            figure = Figure(figsize=(11, 4.5), layout="constrained")
            axes, beside = figure.subplots(1, 2)
            class_curves(history, beside, labels)
        else:
            axes = Figure(figsize=(6, 3.5)).subplots()
    shown = []
    for name, label in _BOUNDS.items():
        if history.rows and all(name in row for row in history.rows):
            axes.plot(history["epoch"], history[name], label=label, lw=1.5)
            shown += history[name]
    return _finish(axes, history, "Learning curves", shown)


def class_terms(history: History) -> list[str]:
    """Return the columns of the history that are not part of the ELBO, in semi-supervised training."""
    columns = history.rows[0] if history.rows else {}
    others = ("weight of ", "validation_")
    return [name for name in columns if name not in COLUMNS and not name.startswith(others)]


def class_curves(history: History, axes: Axes, labels: Mapping[str, str] | None = None) -> Figure:
    """Draw the terms of semi-supervised training, each as a mean over the data that have it, in nats.

    Args:
        history: the history of the training.
        axes: the axes to draw in.
        labels: labels for some of the columns, such as `term_labels(model)`. A term q(y | x) of the guide
            needs none; other columns without a label are called by their names.
    """
    labels, shown = labels or {}, []
    for name, style in zip(class_terms(history), itertools.cycle(["-", "--", "-.", ":"])):
        axes.plot(history["epoch"], history[name], style, label=labels.get(name, _label(name)), lw=1.5)
        shown += history[name]
    figure = _finish(axes, history, "Classification terms in training, unweighted", shown)
    # The labels are long: put them below the panel, not on the curves.
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.22))
    return figure


def _label(name: str) -> str:
    return f"log {name}, labelled data" if name.startswith("q(") else name


def _finish(axes: Axes, history: History, title: str, shown: list[float]) -> Figure:
    if history.best_epoch:
        axes.axvline(history.best_epoch, color="grey", ls=":", label="best epoch")
    if shown:
        axes.set_ylim(*_limits(np.asarray(shown)))
    axes.set_xlabel("epoch")
    axes.set_ylabel("nats per datum")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    hide_top_and_right(axes)
    return figure_of(axes)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Choose limits that show the end of the curves, and cut off the steep start."""
    low, high = float(np.quantile(values, 0.05)), float(values.max())
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin
