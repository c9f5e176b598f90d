"""Figures of what a model makes and how it learned. Each function returns a matplotlib figure.

Figures are made without pyplot, so that nothing needs a display and nothing is left open.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.checkpoints import write_atomically
from pyrovae.errors import InputError
from pyrovae.history import History
from pyrovae.plates import PlateDiagram


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure whole or not at all; the suffix says the format."""
    path = Path(path)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:] or "png", dpi=150, bbox_inches="tight")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
    return path


def image_grid(
    images: Tensor, title: str = "", row_labels: Sequence[str] = (), axes: Axes | None = None
) -> Figure:
    """Rows of images.

    Args:
        images: `(rows, columns, C, H, W)`, C being 1 (grey) or 3 (colour), values in [0, 1].
        title: above the grid.
        row_labels: left of each row.
        axes: where to draw; a figure of its own by default.

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
    axes.set_xticks([])
    axes.set_yticks([(row + 0.5) * (height + 2 * gap) for row in range(len(row_labels))], row_labels)
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    return _figure(axes)


def samples(images: Tensor, columns: int = 10, axes: Axes | None = None) -> Figure:
    """Images `(N, C, H, W)` drawn from the prior and decoded, in a grid."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    blank = images.new_ones(rows * columns - len(images), *images.shape[1:])
    grid = torch.cat([images, blank]).unflatten(0, (rows, columns))
    return image_grid(grid, "Samples: E[x | z], z drawn from the prior", axes=axes)


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


def interpolations(lines: Tensor, axes: Axes | None = None) -> Figure:
    """Decoded lines in latent space, `(N, steps, C, H, W)`, from one datum (left) to another."""
    title = "Interpolation in latent space between two test images (left and right ends)"
    return image_grid(lines, title, axes=axes)


def learning_curves(history: History, axes: Axes | None = None) -> Figure:
    """The bound on training and validation data over the epochs, in nats per datum."""
    if axes is None:
        axes = Figure(figsize=(6, 3.5)).subplots()
    epochs = history["epoch"]
    curves = {"training": "elbo", "validation": "validation_elbo"}
    shown = []
    for label, name in curves.items():
        if history.rows and name in history.rows[0]:
            axes.plot(epochs, history[name], label=f"{label} ELBO", lw=1.5)
            shown += history[name]
    if history.best_epoch:
        axes.axvline(history.best_epoch, color="grey", ls=":", label="best epoch")
    if shown:
        axes.set_ylim(*_without_the_first_descent(np.asarray(shown)))
    axes.set_xlabel("epoch")
    axes.set_ylabel("nats per datum")
    axes.set_title("Learning curves", fontsize=10)
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
    figure = Figure(figsize=(11, 6.8), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.45])  # type: ignore[misc]
    plates, curves = left.subplots(2, 1, height_ratios=[1.3, 1])
    grid, pairs = right.subplots(2, 1, height_ratios=[-(-len(sampled) // 10), 3])
    diagram.draw(plates)
    plates.set_title("Plate diagram, read off the program", fontsize=10)
    learning_curves(history, curves)
    samples(sampled, axes=grid)
    reconstructions(*reconstructed, axes=pairs)
    figure.suptitle(title, fontsize=11)
    return figure


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure
