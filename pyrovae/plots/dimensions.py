"""Figures of latents, one dimension at a time, against the prior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from pyrovae.canvas import ink
from pyrovae.plots.classes import named_classes
from pyrovae.plots.columns import scatter_mixed
from pyrovae.plots.style import COLOURS, GREY, hide_top_and_right, panels, whole


def dimension_names(site: str, dimensions: Sequence[int]) -> list[str]:
    """Return the names of some dimensions of a latent."""
    return [f"{site}[{dimension}]" for dimension in dimensions]


def latent_axis(z: Tensor) -> Tensor:
    """Return 200 points that cover the range of the draws of a latent, and at least -3.5 to 3.5.

    Args:
        z: the draws, of any shape.
    """
    return torch.linspace(min(-3.5, float(z.min())), max(3.5, float(z.max())), 200)


def draw_histograms(
    z: Tensor,
    y: Tensor,
    points: Tensor,
    prior: Tensor,
    names: Sequence[str],
    class_names: Sequence[str] = (),
) -> Figure:
    """Draw a histogram of each latent dimension, stacked by class, and the density of the prior.

    All classes together have area 1, so the stack is the aggregated posterior.

    Args:
        z: one draw from q(z | x) for each datum, `(N, D)`.
        y: the classes `(N,)` of the data.
        points: the points at which the density of the prior is given, `(P,)`.
        prior: the density of the prior at these points, `(P, D)`.
        names: the names of the D dimensions.
        class_names: the names of the classes; by default their numbers.

    Raises:
        InputError: there is not one class for each datum, or a class has no name.
    """
    classes = named_classes(y, len(z), class_names)
    figure, grid = panels(len(names), None, 9.0)
    for column, (panel, name) in enumerate(zip(grid, names, strict=True)):
        values = z[:, column].numpy()
        edges = _edges(values, points)
        groups = [values[y.numpy() == label] for label in classes]
        weights = [np.full(len(group), 1 / (len(values) * (edges[1] - edges[0]))) for group in groups]
        colours = [COLOURS[label % len(COLOURS)] for label in classes]
        panel.hist(groups, edges, weights=weights, stacked=True, color=colours, label=[*classes.values()])
        _draw_prior(panel, points, prior[:, column], name)
    handles = [Patch(color=COLOURS[label % len(COLOURS)], label=name) for label, name in classes.items()]
    figure.legend(handles=handles, title="class", loc="outside right center", frameon=False)
    prior_line = Line2D([], [], color=ink(), lw=1.5, label="prior")
    figure.legend(handles=[prior_line], loc="outside lower center", frameon=False)
    figure.suptitle(
        f"Latent dimensions by class, stacked: one draw z ~ q(z | x) for each of {len(z)} data",
        fontsize=10,
    )
    return whole(figure)


def draw_aggregated_posterior(
    draws: Tensor,
    means: Tensor,
    prior_draws: Tensor,
    points: Tensor,
    prior: Tensor,
    names: Sequence[str],
) -> Figure:
    """Draw the aggregated posterior, the mean of q(z | x) over the data, and the prior.

    There is a panel for each dimension. If its draws follow the prior and its means vary as widely, the
    dimension distinguishes the data. If all its means are alike, the posterior has collapsed onto the
    prior, and the dimension is not used. The last panel shows the first two dimensions together. The
    decoder has not learned to decode regions that the prior covers but the aggregated posterior does not.

    Args:
        draws: one draw from q(z | x) for each datum, `(N, D)`.
        means: the mean of q(z | x) for each datum, `(N, D)`.
        prior_draws: draws from the prior, `(K, D)`.
        points: the points at which the density of the prior is given, `(P,)`.
        prior: the density of the prior at these points, `(P, D)`.
        names: the names of the D dimensions.
    """
    pair = len(names) > 1
    figure, grid = panels(len(names) + pair, None, 10.0)
    for column, (panel, name) in enumerate(zip(grid, names, strict=False)):
        edges = _edges(draws[:, column].numpy(), points)
        panel.hist(draws[:, column], edges, density=True, color=COLOURS[0], alpha=0.6)
        panel.hist(means[:, column], edges, density=True, histtype="step", color=COLOURS[6], lw=1.5)
        # In a dimension that is not used, all means are in one bar, far taller than the rest.
        peak = float(prior[:, column].max())
        panel.set_ylim(0, min(max(panel.get_ylim()[1], 1.1 * peak), 2.5 * peak))
        _draw_prior(panel, points, prior[:, column], name)
    handles = [
        Patch(color=COLOURS[0], alpha=0.6, label="draws from q(z | x), one for each datum"),
        Patch(fill=False, edgecolor=COLOURS[6], lw=1.5, label="means of q(z | x)"),
        Line2D([], [], color=ink(), lw=1.5, label="prior"),
    ]
    if pair:
        _draw_pair(grid[-1], draws[:, :2].numpy(), prior_draws[:, :2].numpy(), names)
        handles.append(Line2D([], [], ls="", marker="o", ms=4, color=GREY, label="draws from the prior"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9
    )
    figure.suptitle(
        f"Aggregated posterior, the mean of q(z | x) over {len(draws)} data, against the prior\n"
        "(a dimension whose means are all alike is not used)",
        fontsize=10,
    )
    return whole(figure)


def _draw_pair(axes: Axes, draws: np.ndarray, prior_draws: np.ndarray, names: Sequence[str]) -> None:
    scatter_mixed(axes, [draws, prior_draws], [COLOURS[0], GREY])
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    axes.set_aspect("equal", adjustable="datalim")
    hide_top_and_right(axes)


def _edges(values: np.ndarray, points: Tensor) -> list[float]:
    low, high = min(values.min(), float(points.min())), max(values.max(), float(points.max()))
    bins = int(np.clip(np.sqrt(len(values)), 10, 50))
    return np.linspace(low, high, bins + 1).tolist()


def _draw_prior(axes: Axes, points: Tensor, density: Tensor, name: str) -> None:
    axes.plot(points, density, color=ink(), lw=1.5, label="prior")
    axes.set_xlabel(name)
    axes.set_ylabel("density")
    hide_top_and_right(axes)
