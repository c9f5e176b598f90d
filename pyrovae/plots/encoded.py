"""Figures of the latents that a trained pair infers from data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.canvas import Canvas
from pyrovae.compute.devices import on_the_cpu
from pyrovae.errors import InputError, check_choice, check_counts
from pyrovae.evaluation import most_active_dimensions, most_telling_dimensions
from pyrovae.generation import (
    Generator,
    draw_latents,
    latent_means,
    posterior_draws,
    prior_density,
    prior_site,
)
from pyrovae.plots.classes import named_classes
from pyrovae.plots.dimensions import (
    dimension_names,
    draw_aggregated_posterior,
    draw_histograms,
    latent_axis,
)
from pyrovae.plots.planes import (
    class_markers,
    latent_pca,
    latent_space,
    latent_tsne,
    scatter_classes,
)
from pyrovae.plots.style import COLOURS, hide_top_and_right, point_area
from pyrovae.programs.pair import ModelAndGuide, with_shape_of

By = Literal["pca", "tsne", "direct", "pairs"]
"""The ways to draw latents in the plane."""

_PAIRS = 4  # the largest number of dimensions in pairs


@on_the_cpu
def latents(
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor | None = None,
    *,
    by: By = "pca",
    site: str | None = None,
    seed: int = 0,
    given: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
) -> Figure:
    """Draw the posterior means of data in the plane, coloured by class.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.
        y: their classes `(N,)`; by default all points have one colour.
        by: the projection to the plane. "pca" takes the first two principal components, "tsne" keeps
            neighbours together, "direct" shows a 2-D latent as it is, "pairs" shows the 4 most active
            dimensions against each other.
        site: the latent. None means the one that the model samples last before the data.
        seed: the seed of t-SNE.
        given: further arguments of both programs by name, a row for each datum. None means nothing.
        class_names: the names of the classes; by default their numbers.

    Raises:
        InputError: the latents do not fit the projection, or there is not one class for each datum.

    Example:
        >>> import torch
        >>> from pyrovae import plots
        >>> from pyrovae.models import PPCA
        >>> figure = plots.latents(PPCA((4,), 2), torch.randn(50, 4), torch.arange(50) % 3)
    """
    check_choice("projection by", by, ("pca", "tsne", "direct", "pairs"))
    z = latent_means(pair, x, site, given=given).reshape(len(x), -1)
    if by == "pca":
        return latent_pca(z, y, class_names)
    if by == "tsne":
        return latent_tsne(z, y, class_names, seed=seed)
    name = Generator(pair, given, x).code_site(site)
    if by == "direct":
        return latent_space(z, y, class_names, axis_labels=dimension_names(name, [0, 1]))
    return _pairs(z, y, class_names, name)


def _pairs(z: Tensor, y: Tensor | None, class_names: Sequence[str], name: str) -> Figure:
    """Draw the most active dimensions of latents `(N, M)` against each other."""
    if min(z.shape) < 2:
        raise InputError(
            f"the latents have shape {tuple(z.shape)}; pairs need at least 2 data and 2 dimensions: look "
            "at a single dimension by plots.histograms (on the command line histograms)."
        )
    classes = {} if y is None else named_classes(y, len(z), class_names)
    shown = most_active_dimensions(z, _PAIRS)
    names, points = dimension_names(name, shown), z[:, shown].numpy()
    size = len(shown) - 1
    figure = Canvas(figsize=(2.2 * size + 2, 2.2 * size + 0.8), layout="constrained")
    grid = figure.subplots(size, size, squeeze=False, sharex="col", sharey="row")
    for i in range(size):
        for j in range(size):
            axes = grid[i, j]
            if j > i:
                axes.remove()
                continue
            both = points[:, [j, i + 1]]
            if y is None:
                axes.scatter(*both.T, s=point_area(2 * len(z)), color=COLOURS[0], linewidths=0)
            else:
                scatter_classes(axes, both, y.numpy())
            axes.set_xlabel(names[j] if i == size - 1 else "")
            axes.set_ylabel(names[i + 1] if j == 0 else "")
            hide_top_and_right(axes)
    if classes:
        figure.legend(
            handles=class_markers(classes), title="class", loc="outside right upper", frameon=False
        )
    most = "" if len(shown) == z.shape[1] else f", the {len(shown)} most active of {z.shape[1]} dimensions"
    figure.suptitle(f"Latents in pairs: posterior means (N = {len(z)}){most}", fontsize=10)
    return figure


@on_the_cpu
def histograms(
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor,
    dimensions: int = 4,
    *,
    site: str | None = None,
    seed: int = 0,
    class_names: Sequence[str] = (),
) -> Figure:
    """Draw latent dimensions by class against the prior. All classes together have area 1.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.
        y: their classes `(N,)`.
        dimensions: the number of dimensions. Those that separate the classes best come first.
        site: the latent. None means the one that the model samples last before the data.
        seed: the seed of the random draws.
        class_names: the names of the classes; by default their numbers.

    Raises:
        InputError: there is no such latent, it has no prior, or there is not one class for each datum.
    """
    pair = with_shape_of(pair, x)
    name = prior_site(pair, site)
    z = posterior_draws(pair, x, name, seed).reshape(len(x), -1)
    means = latent_means(pair, x, name).reshape(len(x), -1)
    shown = most_telling_dimensions(means, y, dimensions)
    points = latent_axis(z[:, shown])
    density = prior_density(pair, points, name)[:, shown]
    return draw_histograms(z[:, shown], y, points, density, dimension_names(name, shown), class_names)


@on_the_cpu
def aggregated_posterior(
    pair: ModelAndGuide,
    x: Tensor,
    dimensions: int = 5,
    *,
    site: str | None = None,
    seed: int = 0,
) -> Figure:
    """Draw the aggregated posterior, the mean of q(z | x) over the data, against the prior.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.
        dimensions: the number of dimensions: the most active ones, and the least active one.
        site: the latent. None means the one that the model samples last before the data.
        seed: the seed of the random draws.

    Raises:
        InputError: there is no such latent, or it has no prior.
    """
    check_counts(dimensions=dimensions)
    pair = with_shape_of(pair, x)
    name = prior_site(pair, site)
    z = posterior_draws(pair, x, name, seed).reshape(len(x), -1)
    means = latent_means(pair, x, name).reshape(len(x), -1)
    ranked = most_active_dimensions(means, means.shape[1])
    shown = ranked[: max(1, dimensions - 1)] + ranked[-1:] if dimensions < len(ranked) else ranked
    points = latent_axis(z[:, shown])
    prior = draw_latents(pair, len(z), seed=seed)[name].reshape(len(z), -1)[:, shown]
    density = prior_density(pair, points, name)[:, shown]
    names = dimension_names(name, shown)
    return draw_aggregated_posterior(z[:, shown], means[:, shown], prior, points, density, names)
