"""Figures of latents as points in a plane, coloured by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from torch import Tensor

from pyrovae.canvas import Canvas, paper
from pyrovae.compute.devices import on_the_cpu
from pyrovae.errors import InputError
from pyrovae.plots.classes import named_classes
from pyrovae.plots.style import COLOURS, MARKERS, hide_top_and_right, point_area

_INCHES = 4.6  # about the side of the axes of a plane


@on_the_cpu
def latent_space(
    z: Tensor,
    y: Tensor | None = None,
    class_names: Sequence[str] = (),
    *,
    title: str = "Latent space: posterior means",
    axis_labels: Sequence[str] = ("z[0]", "z[1]"),
) -> Figure:
    """Draw 2-D latents as points coloured by class. The name of each class stands among its points.

    Args:
        z: the latents, `(N, 2)`.
        y: their classes `(N,)`; by default all points have one colour.
        class_names: the names of the classes 0, 1, ...; by default their numbers.
        title: the title, to which the number of points is added.
        axis_labels: the labels of the two axes.

    Raises:
        InputError: the latents are not 2-D, there is not one class for each, or a class has no name.

    Example:
        >>> import torch
        >>> figure = latent_space(torch.randn(90, 2), torch.arange(90) % 3, ["cat", "dog", "eel"])
    """
    if z.dim() != 2 or z.shape[1] != 2:
        raise InputError(
            f"the latents have shape {tuple(z.shape)}; only 2-D ones, (N, 2), can be drawn directly: "
            "use PCA or t-SNE (on the command line --by pca or --by tsne)."
        )
    figure = Canvas(figsize=(6.8, 5.6), layout="constrained")
    axes = figure.subplots()
    if y is None:
        axes.scatter(z[:, 0], z[:, 1], s=point_area(len(z)), color=COLOURS[0], linewidths=0)
    else:
        _scatter_by_class(axes, z.numpy(), y.numpy(), named_classes(y, len(z), class_names))
    axes.set_title(f"{title} (N = {len(z)})", fontsize=10)
    axes.set_xlabel(axis_labels[0])
    axes.set_ylabel(axis_labels[1])
    axes.set_aspect("equal", adjustable="datalim")
    hide_top_and_right(axes)
    return figure


@on_the_cpu
def latent_pca(z: Tensor, y: Tensor | None = None, class_names: Sequence[str] = ()) -> Figure:
    """Draw latents on their first two principal components, coloured by class as in `latent_space`.

    Args:
        z: the latents, `(N, M)`.
        y: their classes `(N,)`; by default all points have one colour.
        class_names: the names of the classes; by default their numbers.

    Raises:
        InputError: there are fewer than 2 data or dimensions, there is not one class for each datum, or a
            class has no name.
    """
    from sklearn.decomposition import PCA  # slow to import

    if min(z.shape) < 2:
        raise InputError(
            f"the latents have shape {tuple(z.shape)}; PCA needs at least 2 data and 2 dimensions: look at "
            "a single dimension by plots.histograms (on the command line histograms)."
        )
    pca = PCA(n_components=2, svd_solver="full")
    points = torch.from_numpy(pca.fit_transform(z.double().numpy()))
    shares = [
        f"principal component {number} ({share:.0%} of the variance)"
        for number, share in enumerate(pca.explained_variance_ratio_, start=1)
    ]
    title = f"Latent space by PCA: posterior means, {z.shape[1]} dimensions"
    return latent_space(points, y, class_names, title=title, axis_labels=shares)


@on_the_cpu
def latent_tsne(
    z: Tensor,
    y: Tensor | None = None,
    class_names: Sequence[str] = (),
    *,
    perplexity: float = 30.0,
    seed: int = 0,
) -> Figure:
    """Draw latents in the plane by t-SNE, coloured by class as in `latent_space`.

    Args:
        z: the latents, `(N, M)`.
        y: their classes `(N,)`; by default all points have one colour.
        class_names: the names of the classes; by default their numbers.
        perplexity: about the number of neighbours that stay near each point; at most a third of the data
            are used.
        seed: the seed of the optimisation.

    Raises:
        InputError: there are fewer than 4 data, there is not one class for each, or a class has no name.
    """
    from sklearn.manifold import TSNE  # slow to import

    if len(z) < 4:
        raise InputError(f"there are {len(z)} data; t-SNE needs at least 4.")
    perplexity = min(perplexity, (len(z) - 1) / 3)
    init = "pca" if z.shape[1] > 1 else "random"
    tsne = TSNE(perplexity=perplexity, init=init, learning_rate="auto", random_state=seed)
    points = torch.from_numpy(tsne.fit_transform(z.double().numpy()))
    figure = latent_space(
        points,
        y,
        class_names,
        title=f"Latent space by t-SNE (perplexity {perplexity:.3g}): posterior means",
        axis_labels=[
            "neighbours in latent space lie together; axes and distances between groups mean little",
            "",
        ],
    )
    figure.axes[0].set_xticks([])
    figure.axes[0].set_yticks([])
    return figure


def _scatter_by_class(axes: Axes, z: np.ndarray, y: np.ndarray, names: dict[int, str]) -> None:
    scatter_classes(axes, z, y)
    middles = {}
    for label in names:
        members = z[y == label]
        middles[label] = members[np.square(members - np.median(members, 0)).sum(1).argmin()]
    for label in _apart(middles, names, float(np.ptp(z, axis=0).max()) / _INCHES):
        outline = [withStroke(linewidth=3, foreground=paper())]
        look: Any = {"fontsize": 12, "weight": "bold", "path_effects": outline}
        axes.annotate(names[label], middles[label], ha="center", va="center", **look)
    handles = class_markers(names)
    axes.legend(handles=handles, title="class", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _apart(middles: dict[int, np.ndarray], names: dict[int, str], inch: float) -> list[int]:
    """Return the classes whose names would not lie on others; the legend names all of them.

    Args:
        middles: where the name of each class is to stand, `(2,)`.
        names: the names of the classes.
        inch: an inch of the figure, in units of the points.
    """

    def overlap(one: int, other: int) -> bool:
        across, up = np.abs(middles[one] - middles[other]) / inch
        width = 0.1 * (len(names[one]) + len(names[other])) / 2  # a letter of 12 points takes 0.1 inch
        return bool(across < width and up < 0.16)

    return [one for one in names if not any(overlap(one, other) for other in names if other != one)]


def scatter_classes(axes: Axes, z: np.ndarray, y: np.ndarray) -> None:
    """Draw points `(N, 2)` in the colours of their classes, in random order, so that none covers others."""
    order = np.random.default_rng(0).permutation(len(z))
    for tens, marker in enumerate(MARKERS):
        shown = order[y[order] // len(COLOURS) == tens]
        colours = [COLOURS[label % len(COLOURS)] for label in y[shown]]
        if len(shown):
            area = point_area(len(z))
            axes.scatter(z[shown, 0], z[shown, 1], s=area, c=colours, marker=marker, linewidths=0)


def class_markers(names: dict[int, str]) -> list[Line2D]:
    """Return a sign for each class of a legend."""
    signs = []
    for label, name in names.items():
        tens, unit = divmod(label, len(COLOURS))
        look: Any = {"marker": MARKERS[tens % len(MARKERS)], "color": COLOURS[unit]}
        signs.append(Line2D([], [], ls="", label=name, **look))
    return signs
