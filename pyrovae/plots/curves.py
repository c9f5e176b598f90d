"""Figures of training: the bound, its two terms, and terms outside of it, over the epochs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from pyrovae.canvas import Canvas
from pyrovae.errors import InputError
from pyrovae.plots.style import GREY, figure_of, hide_top_and_right, panels, whole
from pyrovae.training.history import COLUMNS, History

_BOUNDS = {
    "elbo": "training ELBO",
    "validation_elbo": "validation ELBO",
    "validation_bound": "validation bound, importance-weighted",
}
_ROOM = 0.5  # for a legend above the curves, as a fraction of their height
_STEEP = 20  # at most one in so many epochs is taken for the steep beginning of a curve

Curves = Mapping[str, list[float]]
"""The values of curves by their labels."""


def term_labels(pair: object) -> Mapping[str, str]:
    """Return the labels that a model declares for its terms, in its attribute `term_labels`.

    Returns:
        A label for each column of the history that needs one; empty for a model without this attribute.
    """
    labels: Mapping[str, str] = getattr(pair, "term_labels", {})
    return labels


def history(
    trained: History, labels: Mapping[str, str] | None = None, within: SubFigure | None = None
) -> Figure:
    """Draw a training: the bound, and reconstruction and KL apart, in nats per datum.

    Classification terms have a panel of their own (`class_curves`). Pyro's own objectives report the bound
    alone.

    Args:
        trained: the history of the training.
        labels: the labels of the classification terms; see `class_curves`.
        within: the subfigure to draw in; by default a new figure.

    Raises:
        InputError: `trained` is something else.

    Example:
        >>> from pyrovae import plots
        >>> from pyrovae.training import History
        >>> figure = plots.history(History([{"epoch": 1, "elbo": -9.0, "reconstruction": -7.0, "kl": 2.0}]))
    """
    check_history("history", trained)
    apart, terms = _has(trained, "kl"), class_terms(trained)
    count = 1 + 2 * apart + bool(terms)
    columns = {1: 1, 2: 2, 3: 3, 4: 2}[count]
    figure, (bound, *others) = panels(count, within, 1.5 + 3.5 * columns, 2.4, columns)
    learning_curves(trained, bound)
    if apart:
        reconstruction_curves(trained, others[0])
        kl_curves(trained, others[1])
    if terms:
        class_curves(trained, others[-1], labels)
    return whole(figure)


def check_history(function: str, history: object) -> None:
    """Refuse anything but a history, such as the pair that was trained.

    Args:
        function: the name of the function that was called, for the message.
        history: its argument.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(history, History):
        raise InputError(
            f"{function} takes the history of a training, but was given a {type(history).__name__}: give "
            "what fit returned, history = fit(pair, x), or the attribute history of a run."
        )


def learning_curves(history: History, axes: Axes | None = None) -> Figure:
    """Draw the bound on training and validation data over the epochs, in nats per datum.

    Args:
        history: the history of the training.
        axes: the axes to draw in; by default those of a new figure.

    Raises:
        InputError: `history` is something else.
    """
    check_history("learning_curves", history)
    if axes is None:
        axes = Canvas(figsize=(6, 3.5), layout="constrained").subplots()
    shown = {label: history[name] for name, label in _BOUNDS.items() if _has(history, name)}
    return _draw(axes, history, "Learning curves: the bound", shown)


def reconstruction_curves(history: History, axes: Axes) -> Figure:
    """Draw the reconstruction term, the mean of log p(x | z) for z ~ q(z | x), of both parts of the data.

    Args:
        history: the history of the training.
        axes: the axes to draw in.
    """
    shown = {"training": history["reconstruction"]}
    if _has(history, "validation_kl"):
        columns = zip(history["validation_elbo"], history["validation_kl"], strict=True)
        shown["validation"] = [elbo + kl for elbo, kl in columns]
    return _draw(axes, history, "Reconstruction: log p(x | z)", shown)


def kl_curves(history: History, axes: Axes) -> Figure:
    """Draw the KL term, the nats that the latents carry, and beta if it changes.

    The legend stands above the curves.

    Args:
        history: the history of the training.
        axes: the axes to draw in.
    """
    shown = {"training": history["kl"]}
    if _has(history, "validation_kl"):
        shown["validation"] = history["validation_kl"]
    figure = _draw(axes, history, "KL: information in the latents", shown, cut=False)
    lines, (low, high) = [*axes.get_lines()], axes.get_ylim()
    axes.set_ylim(low, high + _ROOM * (high - low))
    beta = history["beta"] if _has(history, "beta") else []
    if len(set(beta)) > 1:
        other = axes.twinx()
        lines += other.plot(history["epoch"], beta, color=GREY, lw=1.2, ls="--", label="beta (right)")
        other.set_ylim(0, 1.05 * max(beta) * (1 + _ROOM))
        other.spines["top"].set_visible(False)
    clear: Any = {"framealpha": 1.0, "edgecolor": "none"}  # of the line at the best epoch
    axes.legend(handles=lines, fontsize=8, loc="upper center", ncols=2, **clear)
    return figure


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
    labels = labels or {}
    shown = {labels.get(name, _label(name)): history[name] for name in class_terms(history)}
    figure = _draw(axes, history, "Classification terms in training, unweighted", shown, dashes=True)
    # The labels are long: put them below the panel, not on the curves.
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.22))
    return figure


def _has(history: History, name: str) -> bool:
    return any(name in row for row in history.rows)


def _label(name: str) -> str:
    return f"log {name}, labelled data" if name.startswith("q(") else name


def _draw(
    axes: Axes, history: History, title: str, shown: Curves, cut: bool = True, dashes: bool = False
) -> Figure:
    """Draw curves over the epochs. `cut` leaves out their steep beginnings, `dashes` tells them apart."""
    styles = itertools.cycle(["-", "--", "-.", ":"] if dashes else ["-"])
    for (label, values), style in zip(shown.items(), styles, strict=False):
        single = "o" if len(values) == 1 else ""
        axes.plot(history["epoch"], values, style, marker=single, label=label, lw=1.5)
    if history.best_epoch:
        axes.axvline(history.best_epoch, color="grey", ls=":", label="best epoch")
    axes.set_xlabel("epoch")
    axes.set_ylabel("nats per datum")
    axes.set_title(title, fontsize=10)
    if cut and shown:
        _leave_out_the_steep_beginning(axes, [*shown.values()])
    if shown:
        axes.legend(fontsize=8, frameon=False)
    hide_top_and_right(axes)
    return figure_of(axes)


def _leave_out_the_steep_beginning(axes: Axes, curves: list[list[float]]) -> None:
    """Let the vertical axis begin above the first epochs, if they would flatten all that follows.

    Nothing else is cut: a curve that falls apart later is seen to do so. The title says what is below.
    """
    values = np.asarray(curves, dtype=float)
    first = math.ceil(values.shape[1] / _STEEP) if values.shape[1] > 3 else 0
    if not np.isfinite(values[:, first:]).any():
        return
    high, later, lowest = np.nanmax(values), np.nanmin(values[:, first:]), np.nanmin(values)
    if high - lowest < 2 * (high - later):
        return
    margin = 0.05 * (high - later) or 1.0
    axes.set_ylim(later - margin, high + margin)
    count = int((values < later - margin).any(0).sum())
    which = "the first epoch" if count == 1 else f"the first {count} epochs"
    axes.set_title(f"{axes.get_title()}\n(below the axis: {which}, from {lowest:,.4g})", fontsize=10)
