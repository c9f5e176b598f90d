"""Figures of latent space, of the classes in it, and of how well they are told apart.

Each function takes arrays and returns a matplotlib figure, made without pyplot. The ten colours are told
apart with any colour vision (Petroff 2021); where points of many classes meet, their names stand there too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from torch import Tensor

from pyrovae.errors import InputError

COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
GREY = "#bbbbbb"
MARKERS = "o^sDvP*X"  # one for each ten classes


# Planes of latents


def latent_space(
    z: Tensor,
    y: Tensor | None = None,
    class_names: Sequence[str] = (),
    *,
    title: str = "Latent space: posterior means of test images",
    axis_labels: Sequence[str] = ("z[0]", "z[1]"),
) -> Figure:
    """Points in the plane coloured by class: a 2-D latent space directly, or a projection of a larger one.

    Args:
        z: `(N, 2)`.
        y: classes `(N,)`; without them all points have one colour.
        class_names: of the classes 0, 1, ...; by default their numbers.
        title: above the figure.
        axis_labels: of the two axes.

    Raises:
        InputError: the points are not 2-D, or `y` does not give each of them a class that has a name.
    """
    if z.dim() != 2 or z.shape[1] != 2:
        raise InputError(
            f"the latents have shape {tuple(z.shape)}; only 2-D ones, (N, 2), can be drawn directly: "
            "use PCA or t-SNE (on the command line --by pca or --by tsne)."
        )
    figure = Figure(figsize=(6.8, 5.6), layout="constrained")
    axes = figure.subplots()
    if y is None:
        axes.scatter(z[:, 0], z[:, 1], s=_area(len(z)), color=COLOURS[0], linewidths=0)
    else:
        _scatter_by_class(axes, z.numpy(), y.numpy(), _named_classes(y, len(z), class_names))
    axes.set_title(f"{title} (N = {len(z)})", fontsize=10)
    axes.set_xlabel(axis_labels[0])
    axes.set_ylabel(axis_labels[1])
    axes.set_aspect("equal", adjustable="datalim")
    _without_frame(axes)
    return figure


def latent_pca(z: Tensor, y: Tensor | None = None, class_names: Sequence[str] = ()) -> Figure:
    """Latents `(N, M)` on their first two principal components, coloured by class as in `latent_space`.

    Raises:
        InputError: fewer than 2 dimensions or data, or what `latent_space` raises.
    """
    from sklearn.decomposition import PCA  # slow to import

    if min(z.shape) < 2:
        raise InputError(
            f"the latents have shape {tuple(z.shape)}; PCA needs at least 2 data and 2 dimensions: look at "
            "a single dimension by class_histograms."
        )
    pca = PCA(n_components=2, svd_solver="full")
    points = torch.from_numpy(pca.fit_transform(z.double().numpy()))
    shares = [
        f"principal component {number} ({share:.0%} of the variance)"
        for number, share in enumerate(pca.explained_variance_ratio_, start=1)
    ]
    title = f"Latent space by PCA: posterior means of test images, {z.shape[1]} dimensions"
    return latent_space(points, y, class_names, title=title, axis_labels=shares)


def latent_tsne(
    z: Tensor,
    y: Tensor | None = None,
    class_names: Sequence[str] = (),
    *,
    perplexity: float = 30.0,
    seed: int = 0,
) -> Figure:
    """Latents `(N, M)` placed in the plane by t-SNE, coloured by class as in `latent_space`.

    Args:
        z: the latents.
        y: classes `(N,)`.
        class_names: of the classes.
        perplexity: about how many neighbours stay near; at most a third of the data.
        seed: of the optimisation.

    Raises:
        InputError: fewer than 4 data, or what `latent_space` raises.
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
        title=f"Latent space by t-SNE (perplexity {perplexity:g}): posterior means of test images",
        axis_labels=[
            "neighbours in latent space lie together; axes and distances between groups mean little",
            "",
        ],
    )
    figure.axes[0].set_xticks([])
    figure.axes[0].set_yticks([])
    return figure


def _scatter_by_class(axes: Axes, z: np.ndarray, y: np.ndarray, names: dict[int, str]) -> None:
    # In random order, so that no class covers the others.
    order = np.random.default_rng(0).permutation(len(z))
    for tens, marker in enumerate(MARKERS):
        shown = order[y[order] // len(COLOURS) == tens]
        colours = [COLOURS[label % len(COLOURS)] for label in y[shown]]
        if len(shown):
            axes.scatter(z[shown, 0], z[shown, 1], s=_area(len(z)), c=colours, marker=marker, linewidths=0)
    for label, name in names.items():
        members = z[y == label]
        middle = members[np.square(members - np.median(members, 0)).sum(1).argmin()]
        outline = [withStroke(linewidth=3, foreground="white")]
        axes.annotate(
            name, middle, ha="center", va="center", fontsize=12, weight="bold", path_effects=outline
        )
    handles = [_marker(label, name) for label, name in names.items()]
    axes.legend(handles=handles, title="class", **_BESIDE)


def _marker(label: int, name: str) -> Line2D:
    tens, unit = divmod(label, len(COLOURS))
    return Line2D([], [], ls="", marker=MARKERS[tens % len(MARKERS)], color=COLOURS[unit], label=name)


def _area(count: int) -> float:
    """Of a point, in square points, so that many do not cover each other."""
    return float(np.clip(12_000 / count, 5, 30))


# Latents, one dimension at a time


def class_histograms(
    z: Tensor,
    y: Tensor,
    points: Tensor,
    prior: Tensor,
    names: Sequence[str],
    class_names: Sequence[str] = (),
) -> Figure:
    """A histogram of each latent dimension, stacked by class, against the prior's density.

    All classes together have area 1, so the stack is the aggregated posterior.

    Args:
        z: one draw from q(z | x) for each datum, `(N, D)`.
        y: classes `(N,)`.
        points: where the prior's density is given, `(P,)`.
        prior: that density, `(P, D)`.
        names: of the D dimensions.
        class_names: of the classes; by default their numbers.

    Raises:
        InputError: `y` does not give each datum a class that has a name.
    """
    classes = _named_classes(y, len(z), class_names)
    figure, panels = _panels(len(names), figure_width=9.0)
    for column, (panel, name) in enumerate(zip(panels, names, strict=True)):
        values = z[:, column].numpy()
        edges = _edges(values, points)
        groups = [values[y.numpy() == label] for label in classes]
        weights = [np.full(len(group), 1 / (len(values) * (edges[1] - edges[0]))) for group in groups]
        colours = [COLOURS[label % len(COLOURS)] for label in classes]
        panel.hist(groups, edges, weights=weights, stacked=True, color=colours, label=[*classes.values()])
        _draw_prior(panel, points, prior[:, column], name)
    handles = [Patch(color=COLOURS[label % len(COLOURS)], label=name) for label, name in classes.items()]
    figure.legend(handles=handles, title="class", loc="outside right center", frameon=False)
    prior_line = Line2D([], [], color="black", lw=1.5, label="prior")
    figure.legend(handles=[prior_line], loc="outside lower center", frameon=False)
    figure.suptitle(
        f"Latent dimensions by class, stacked: one draw z ~ q(z | x) for each of {len(z)} test images",
        fontsize=10,
    )
    return figure


def aggregated_posterior(
    draws: Tensor,
    means: Tensor,
    prior_draws: Tensor,
    points: Tensor,
    prior: Tensor,
    names: Sequence[str],
) -> Figure:
    """The aggregated posterior, the mean of q(z | x) over data, against the prior it should agree with.

    A panel for each dimension. Where draws follow the prior and the means are as widely spread, the
    dimension tells the data apart; where all means are alike, the posterior has collapsed onto the prior
    and the dimension is unused. The last panel shows the first two dimensions together: regions that the
    prior covers and no datum's posterior does are decoded to images the decoder has not learned.

    Args:
        draws: one draw from q(z | x) for each datum, `(N, D)`.
        means: the posteriors' means, `(N, D)`.
        prior_draws: `(K, D)`.
        points: where the prior's density is given, `(P,)`.
        prior: that density, `(P, D)`.
        names: of the D dimensions.
    """
    pair = len(names) > 1
    figure, panels = _panels(len(names) + pair, figure_width=10.0)
    for column, (panel, name) in enumerate(zip(panels, names, strict=False)):
        edges = _edges(draws[:, column].numpy(), points)
        panel.hist(draws[:, column], edges, density=True, color=COLOURS[0], alpha=0.6)
        panel.hist(means[:, column], edges, density=True, histtype="step", color=COLOURS[6], lw=1.5)
        # The means of a dimension that is not used are one bar, far taller than the rest.
        peak = float(prior[:, column].max())
        panel.set_ylim(0, min(max(panel.get_ylim()[1], 1.1 * peak), 2.5 * peak))
        _draw_prior(panel, points, prior[:, column], name)
    handles = [
        Patch(color=COLOURS[0], alpha=0.6, label="draws from q(z | x), one for each image"),
        Patch(fill=False, edgecolor=COLOURS[6], lw=1.5, label="means of q(z | x)"),
        Line2D([], [], color="black", lw=1.5, label="prior"),
    ]
    if pair:
        _draw_pair(panels[-1], draws[:, :2].numpy(), prior_draws[:, :2].numpy(), names)
        handles.append(Line2D([], [], ls="", marker="o", ms=4, color=GREY, label="draws from the prior"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9
    )
    figure.suptitle(
        f"Aggregated posterior, the mean of q(z | x) over {len(draws)} test images, against the prior\n"
        "(a dimension whose means are all alike is not used)",
        fontsize=10,
    )
    return figure


def _draw_pair(axes: Axes, draws: np.ndarray, prior_draws: np.ndarray, names: Sequence[str]) -> None:
    """Draws of both, in random order so that neither covers the other."""
    count = min(len(draws), len(prior_draws), 1000)
    points = np.concatenate([draws[:count], prior_draws[:count]])
    colours = np.repeat([COLOURS[0], GREY], count)
    order = np.random.default_rng(0).permutation(2 * count)
    axes.scatter(points[order, 0], points[order, 1], s=_area(4 * count), c=colours[order], linewidths=0)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    axes.set_aspect("equal", adjustable="datalim")
    _without_frame(axes)


def _panels(count: int, figure_width: float) -> tuple[Figure, list[Axes]]:
    columns = count if count <= 3 else math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(figure_width, 1 + 2.2 * rows + 1.5 * (rows == 1)), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for surplus in axes[count:]:
        surplus.set_axis_off()
    return figure, axes[:count]


def _edges(values: np.ndarray, points: Tensor) -> list[float]:
    low, high = min(values.min(), float(points.min())), max(values.max(), float(points.max()))
    bins = int(np.clip(np.sqrt(len(values)), 10, 50))
    return np.linspace(low, high, bins + 1).tolist()


def _draw_prior(axes: Axes, points: Tensor, density: Tensor, name: str) -> None:
    axes.plot(points, density, color="black", lw=1.5, label="prior")
    axes.set_xlabel(name)
    axes.set_ylabel("density")
    _without_frame(axes)


# Predictions


def confusion_matrix(y: Tensor, predicted: Tensor, class_names: Sequence[str] = ()) -> Figure:
    """How many data of each class (row) are taken for each (column).

    Args:
        y: the true classes `(N,)`.
        predicted: the predicted ones `(N,)`, or probabilities `(N, C)`, of which the largest counts.
        class_names: of the classes; by default their numbers.

    Raises:
        InputError: not as many predictions as classes, or a class without a name.
    """
    if predicted.dim() == 2:
        predicted = predicted.argmax(-1)
    _named_classes(predicted, len(y), class_names)
    known = _named_classes(torch.cat([y, predicted]), 2 * len(y), class_names)
    size = max(max(known) + 1, len(class_names))
    names = class_names or [str(label) for label in range(size)]
    counts = torch.zeros(size, size, dtype=torch.long)
    counts.index_put_((y, predicted), torch.ones_like(y), accumulate=True)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    figure = Figure(figsize=(1.6 + 0.55 * size, 1.4 + 0.5 * size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in counts.nonzero().tolist():
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(
            column, row, str(int(counts[row, column])), ha="center", va="center", color=colour, size=9
        )
    turned: Any = {"rotation": 45, "ha": "right"} if max(map(len, names)) > 3 else {}
    axes.set_xticks(range(size), names, **turned)
    axes.set_yticks(range(size), names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    wrong = int((y != predicted).sum())
    axes.set_title(
        f"Confusion matrix: {wrong} of {len(y)} test images wrong, error {wrong / len(y):.2%}", fontsize=10
    )
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    return figure


# What the figures have in common

_BESIDE: Any = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}


def _named_classes(y: Tensor, count: int, class_names: Sequence[str]) -> dict[int, str]:
    """The classes that occur, with their names."""
    if len(y) != count:
        raise InputError(f"there are {count} data and {len(y)} classes; expected one for each datum.")
    labels = [int(label) for label in y.unique()]
    if labels[0] < 0 or (class_names and labels[-1] >= len(class_names)):
        raise InputError(
            f"the classes go from {labels[0]} to {labels[-1]}, and {len(class_names)} have names: give "
            "classes counted from 0, and a name for each."
        )
    return {label: class_names[label] if class_names else str(label) for label in labels}


def _without_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
