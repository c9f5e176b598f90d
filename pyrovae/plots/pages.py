"""A page that shows a whole run at a glance."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.diagrams import PlateDiagram
from pyrovae.plots.curves import class_curves, class_terms, learning_curves
from pyrovae.plots.generated import reconstructions, samples
from pyrovae.training import History


def overview(
    diagram: PlateDiagram,
    history: History,
    sampled: Tensor,
    reconstructed: tuple[Tensor, Tensor, Tensor | None],
    title: str,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """Draw a page about a run: plate diagram, learning curves, samples and reconstructions.

    Args:
        diagram: the plate diagram of the model and its guide.
        history: the history of the training.
        sampled: the images for `samples`, `(N, C, H, W)`.
        reconstructed: the arguments of `reconstructions`: data, their reconstructions, and the images
            before they were binarised, or None.
        title: the title of the page.
        labels: the labels of the terms of semi-supervised training; see `class_curves`.

    Raises:
        InputError: `sampled` or `reconstructed` are not images.
    """
    terms = class_terms(history)
    figure = Figure(figsize=(11, 6.8 + 2.5 * bool(terms)), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[1, 1.45])[0]
    ratios = [1.3, 1, 1] if terms else [1.3, 1]
    plates, *curves = left.subplots(len(ratios), 1, height_ratios=ratios)
    grid, pairs = right.subplots(2, 1, height_ratios=[-(-len(sampled) // 10), 3])
    diagram.draw(plates)
    plates.set_title("Plate diagram, read off the program", fontsize=10)
    learning_curves(history, curves[0])
    if terms:
        class_curves(history, curves[1], labels)
    samples(sampled, axes=grid)
    reconstructions(*reconstructed, axes=pairs)
    figure.suptitle(title, fontsize=11)
    return figure
