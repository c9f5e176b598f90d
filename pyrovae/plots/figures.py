"""Figures of what a model makes and how it learned. Each function returns a matplotlib figure.

Figures are made without pyplot, so that nothing needs a display and nothing is left open.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.diagrams import PlateDiagram
from pyrovae.errors import InputError
from pyrovae.storage import write_atomically
from pyrovae.training.history import COLUMNS, History


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure whole or not at all; the suffix says the format."""
    path = Path(path)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:] or "png", dpi=150, bbox_inches="tight")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
    return path


def image_grid(
    images: Tensor,
    title: str = "",
    row_labels: Sequence[str] = (),
    axes: Axes | None = None,
    column_labels: Sequence[str] = (),
) -> Figure:
    """Rows of images.

    Args:
        images: `(rows, columns, C, H, W)`, C being 1 (grey) or 3 (colour), values in [0, 1].
        title: above the grid.
        row_labels: left of each row.
        axes: where to draw; a figure of its own by default.
        column_labels: above each column.

    Raises:
        InputError: the data are no images.
    """
    if images.dim() != 5 or images.shape[2] not in (1, 3):
        raise InputError(
            f"data of shape {tuple(images.shape[2:])} are no images (C, H, W) with 1 or 3 channels, "
            "so they cannot be drawn."
        )
    rows, columns, _, height, width = images.shape
    if axes is None:
        axes = Figure(figsize=(0.7 * columns + 0.6, 0.7 * rows + 0.5)).subplots()
    gap = max(1, height // 14)
    tiles = torch.nn.functional.pad(images.clamp(0, 1), (gap, gap, gap, gap), value=1.0)
    sheet = tiles.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).numpy()
    sheet = sheet[..., 0] if sheet.shape[-1] == 1 else sheet  # grey, or colour
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.xaxis.tick_top()
    axes.set_xticks(_middles(len(column_labels), width + 2 * gap), column_labels)
    if max(map(len, column_labels), default=0) > 6:  # too long to stand side by side
        axes.set_xticks(axes.get_xticks(), column_labels, rotation=40, ha="left")
    axes.set_yticks(_middles(len(row_labels), height + 2 * gap), row_labels)
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    return _figure(axes)


def _middles(count: int, size: int) -> list[float]:
    return [(cell + 0.5) * size - 0.5 for cell in range(count)]


def samples(images: Tensor, columns: int = 10, axes: Axes | None = None) -> Figure:
    """Images `(N, C, H, W)` drawn from the prior and decoded, in a grid."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    blank = images.new_ones(rows * columns - len(images), *images.shape[1:])
    grid = torch.cat([images, blank]).unflatten(0, (rows, columns))
    return image_grid(grid, "Samples: means of p(x | latents), latents drawn from the prior", axes=axes)


def reconstructions(
    x: Tensor, reconstructed: Tensor, original: Tensor | None = None, axes: Axes | None = None
) -> Figure:
    """Data above their reconstructions, all `(N, C, H, W)`.

    Args:
        x: the images as the model was given them.
        reconstructed: what it makes of them.
        original: the images before they were binarised, shown on top.
        axes: where to draw; a figure of its own by default.
    """
    rows = {"x": x, "E[x | z]": reconstructed}
    if original is not None:
        rows = {"grey image": original, "binarised x": x, "E[x | z]": reconstructed}
    return image_grid(torch.stack([*rows.values()]), "Reconstructions of test images", [*rows], axes)


def interpolations(lines: Tensor, axes: Axes | None = None, class_jumps: bool = False) -> Figure:
    """Decoded lines in latent space, `(N, steps, C, H, W)`, from one datum (left) to another.

    `class_jumps` says that images depend on a class, which changes halfway.
    """
    title = "Interpolation in latent space between two test images, reconstructed at both ends"
    return image_grid(lines, title + class_jumps * "\nThe class y is the nearer end's", axes=axes)


def interpolation_grid(images: Tensor, class_jumps: bool = False) -> Figure:
    """The decoded square `(steps, steps, C, H, W)` between four data at its corners."""
    title = "Interpolation in latent space between four test images (the corners)"
    return image_grid(images, title + class_jumps * "\nThe class y is the nearest corner's")


def manifold(images: Tensor, site: str = "z", label: str | None = None) -> Figure:
    """What a plane of latents decodes to, `(steps, steps, C, H, W)`, from `generation.manifold`."""
    given = f"E[x | {site}]" if label is None else f"E[x | {site}, y = {label}]"
    figure = image_grid(images, f"The latent plane: {given} at the prior's quantiles, 1% to 99%")
    (axes,) = figure.axes
    axes.set_xlabel(f"{site}[0] grows to the right")
    axes.set_ylabel(f"{site}[1] grows upwards")
    return figure


def traversals(
    images: Tensor, x: Tensor, reconstructed: Tensor, row_labels: Sequence[str], levels: Sequence[float]
) -> Figure:
    """A datum's code moved along one dimension in each row, beside the datum.

    Args:
        images: `(D, Q, C, H, W)`, from `generation.traverse`.
        x: the datum as a person sees it, `(C, H, W)`.
        reconstructed: E[x | z] at its posterior's mean, `(C, H, W)`.
        row_labels: of the D dimensions.
        levels: of the Q quantiles of the prior.
    """
    blank = torch.ones_like(images[:, 0])
    datum = torch.cat([torch.stack([x, reconstructed]), blank])[: max(2, len(images)), None]
    columns = [f"{100 * level:g}%" for level in levels]
    figure = _beside(datum, images, row_labels, columns, left_rows=["image", "E[x | z]"])
    figure.suptitle(
        "Latent traversals: in each row one dimension moves through the prior's quantiles,\n"
        "the others stay at the posterior mean of the test image on the left",
        fontsize=10,
    )
    return figure


def class_samples(images: Tensor, class_names: Sequence[str]) -> Figure:
    """Samples `(C, N, channels, H, W)` given their class, a row for each."""
    title = "Samples given the class: means of p(x | latents), latents drawn from p(z | y)"
    return image_grid(images, title, class_names)


def analogies(x: Tensor, images: Tensor, class_names: Sequence[str]) -> Figure:
    """Data `(N, channels, H, W)` as a person sees them, beside their style in every class,
    `(N, C, channels, H, W)`, from `generation.analogies`."""
    figure = _beside(x[:, None], images, [], class_names, left_column="image")
    figure.suptitle("Analogies: a test image, and its style z in every class y: E[x | y, z]", fontsize=10)
    return figure


def _beside(
    left: Tensor,
    right: Tensor,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    left_rows: Sequence[str] = (),
    left_column: str = "",
) -> Figure:
    """A column of data `(rows, 1, C, H, W)` beside the grid of what is made of them."""
    rows, columns = len(left), right.shape[1]
    figure = Figure(figsize=(0.7 * columns + 2, 0.7 * rows + 1), layout="constrained")
    one, many = figure.subplots(1, 2, width_ratios=[1, columns])
    image_grid(left, row_labels=left_rows, axes=one, column_labels=[left_column])
    image_grid(right, row_labels=row_labels, axes=many, column_labels=column_labels)
    return figure


# What a history's columns mean that are no part of the ELBO: each is a mean over the data that have it.
CLASS_TERMS = {
    "q(y | x)": "log q(y | x), labelled data",
    "y": "log p(y | z), labelled data",
    "y_again": "log p(y | z̄), labelled data, z̄ ~ q(z | E[x | z])",
    "consistency": "Σ p(y | z) log p(y | z̄), unlabelled data",
    "aggregate": "−KL(p(y) ‖ mean of p(y | z̄)), unlabelled data",
}
_BOUNDS = {
    "elbo": "training ELBO",
    "validation_elbo": "validation ELBO",
    "validation_bound": "validation bound, importance-weighted",
}


def learning_curves(history: History, axes: Axes | None = None) -> Figure:
    """The bound on training and validation data over the epochs, in nats per datum; and, where there is
    one of its own to draw in, a second panel with the classification terms of semi-supervised training."""
    if axes is None:
        if class_terms(history):
            figure = Figure(figsize=(11, 4.5), layout="constrained")
            axes, beside = figure.subplots(1, 2)
            class_curves(history, beside)
        else:
            axes = Figure(figsize=(6, 3.5)).subplots()
    shown = []
    for name, label in _BOUNDS.items():
        if history.rows and all(name in row for row in history.rows):
            axes.plot(history["epoch"], history[name], label=label, lw=1.5)
            shown += history[name]
    return _finish_curves(axes, history, "Learning curves", shown)


def class_terms(history: History) -> list[str]:
    """The columns that are no part of the ELBO: those of semi-supervised training."""
    columns = history.rows[0] if history.rows else {}
    others = ("weight of ", "validation_")
    return [name for name in columns if name not in COLUMNS and not name.startswith(others)]


def class_curves(history: History, axes: Axes) -> Figure:
    """The classification terms of semi-supervised training, in nats per datum that has them."""
    shown = []
    for name, style in zip(class_terms(history), itertools.cycle(["-", "--", "-.", ":"])):
        axes.plot(history["epoch"], history[name], style, label=CLASS_TERMS.get(name, name), lw=1.5)
        shown += history[name]
    figure = _finish_curves(axes, history, "Classification terms in training, unweighted", shown)
    # Their names are long: beneath the panel rather than on the curves.
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.22))
    return figure


def _finish_curves(axes: Axes, history: History, title: str, shown: list[float]) -> Figure:
    if history.best_epoch:
        axes.axvline(history.best_epoch, color="grey", ls=":", label="best epoch")
    if shown:
        axes.set_ylim(*_without_the_first_descent(np.asarray(shown)))
    axes.set_xlabel("epoch")
    axes.set_ylabel("nats per datum")
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _figure(axes)


def _without_the_first_descent(values: np.ndarray) -> tuple[float, float]:
    """Limits that show where the curves end rather than the fall of the first epochs."""
    low, high = float(np.quantile(values, 0.05)), float(values.max())
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def overview(
    diagram: PlateDiagram,
    history: History,
    sampled: Tensor,
    reconstructed: tuple[Tensor, Tensor, Tensor | None],
    title: str,
) -> Figure:
    """One page on a run: plate diagram, learning curves, samples and reconstructions.

    Args:
        diagram: of the program.
        history: of the training.
        sampled: images for `samples`.
        reconstructed: what `reconstructions` takes: data, reconstructions, and originals or None.
        title: above the page.
    """
    terms = class_terms(history)
    figure = Figure(figsize=(11, 6.8 + 2.5 * bool(terms)), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.45])  # type: ignore[misc]
    ratios = [1.3, 1, 1] if terms else [1.3, 1]
    plates, *curves = left.subplots(len(ratios), 1, height_ratios=ratios)
    grid, pairs = right.subplots(2, 1, height_ratios=[-(-len(sampled) // 10), 3])
    diagram.draw(plates)
    plates.set_title("Plate diagram, read off the program", fontsize=10)
    learning_curves(history, curves[0])
    if terms:
        class_curves(history, curves[1])
    samples(sampled, axes=grid)
    reconstructions(*reconstructed, axes=pairs)
    figure.suptitle(title, fontsize=11)
    return figure


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure
