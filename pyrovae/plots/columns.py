"""Figures of vectors and tables: the columns of data beside those that a model makes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from pyrovae import generation
from pyrovae.canvas import Canvas, ink
from pyrovae.compute.devices import on_the_cpu
from pyrovae.errors import InputError
from pyrovae.generation import as_grey, only_site
from pyrovae.plots.classes import shown_name
from pyrovae.plots.style import COLOURS, hide_top_and_right, panels, point_area, whole
from pyrovae.programs.pair import ModelAndGuide, with_shape_of
from pyrovae.programs.rows import Arguments

_PANELS, _FEW, _PAIRS = 24, 6, 5  # the largest numbers of columns: in a figure, in a part of it, in pairs
_LINE = 15  # characters of a name beside a panel of a pair
_DRAWS = 200  # the number of draws, at least, that stand for the model
_DATA, _MODEL = COLOURS[0], COLOURS[6]


@on_the_cpu
def pairs(
    pair: ModelAndGuide,
    x: Tensor,
    columns: Sequence[int] | None = None,
    *,
    count: int | None = None,
    seed: int = 0,
    given: Mapping[str, Any] | None = None,
    column_names: Sequence[str] = (),
) -> Figure:
    """Draw columns of data against each other, and draws of the model around them.

    Data are dots and draws are rings, so that neither hide the others.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.
        columns: the columns, counted from 0. None means those that depend most on others, 5 at most.
        count: the number of draws. None means as many as there are data, at least 200.
        seed: the seed of the random draws.
        given: further arguments of both programs by name, a row for each draw. None means nothing.
        column_names: the names of the columns; by default x[0], x[1], ...

    Raises:
        InputError: the model cannot generate, several of its sites observe data, or there is no such
            column.

    Example:
        >>> import torch
        >>> from pyrovae import plots
        >>> from pyrovae.models import PPCA
        >>> figure = plots.pairs(PPCA((3,), 2), torch.randn(50, 3), column_names=["a", "b", "c"])
    """
    pair, number = with_shape_of(pair, x), count or max(len(x), _DRAWS if given is None else 0)
    drawn = only_site(generation.samples(pair, number, seed, given=given))
    names = names_of_columns(x, column_names)
    one = Arguments((drawn,), given or {}).rows(slice(1)).kwargs
    of_data, of_model = _flat(as_grey(pair, x, given=one)), _flat(drawn)
    shown = _most_dependent(of_data) if columns is None else [*columns]
    if unknown := [column for column in shown if not 0 <= column < len(names)]:
        raise InputError(f"there is no column {unknown[0]}; there are {len(names)}, counted from 0.")
    size = 1.7 * len(shown) + 1
    figure = Canvas(figsize=(size, size), layout="constrained")
    grid = figure.subplots(len(shown), len(shown), squeeze=False, sharex="col")
    for i, row in enumerate(shown):
        for j, column in enumerate(shown):
            axes = grid[i, j]
            if j > i:
                axes.remove()
                continue
            if i == j:
                _histograms(axes, of_model[:, row], of_data[:, row])
                axes.set_yticks([])
            else:
                area = point_area(2 * (len(of_data) + len(of_model)))
                rings: Any = {"facecolors": "none", "edgecolors": _MODEL, "linewidths": 0.6}
                axes.scatter(of_model[:, column], of_model[:, row], s=2 * area, **rings)
                axes.scatter(of_data[:, column], of_data[:, row], s=area / 2, color=_DATA, linewidths=0)
            axes.set_xlabel(_in_lines(names[column]) if i == len(shown) - 1 else "", fontsize=9)
            axes.set_ylabel(_in_lines(names[row]) if j == 0 and i else "", fontsize=9)
            hide_top_and_right(axes)
    _below(figure, _legend())
    figure.suptitle(f"Columns in pairs{_some(len(shown), len(names), 'depend most on others', columns)}")
    return figure


def draw_marginals(
    drawn: Tensor, x: Tensor | None, column_names: Sequence[str], within: SubFigure | None
) -> Figure:
    """Draw a histogram of each column of draws, beside that of the data.

    Args:
        drawn: draws from the model, `(K, *x_shape)`.
        x: the data, `(N, *x_shape)`, or None.
        column_names: the names of the columns, or none.
        within: the subfigure to draw in. None means a new figure.
    """
    names, of_model = names_of_columns(drawn, column_names), _flat(drawn)
    of_data = None if x is None else _flat(x)
    most = _PANELS if within is None else _FEW
    shown, why = [*range(len(names))][:most], "come first"
    if of_data is not None and len(names) > most:
        apart = [_distance(of_data[:, c], of_model[:, c]) for c in range(len(names))]
        shown, why = sorted(np.argsort(apart)[::-1][:most].tolist()), "differ most"
    figure, axes = panels(len(shown), within, 11.0, row=1.9)
    for panel, column in zip(axes, shown, strict=True):
        _histograms(panel, of_model[:, column], None if of_data is None else of_data[:, column])
        panel.set_xlabel(names[column], fontsize=9)
        panel.set_yticks([])
        hide_top_and_right(panel)
    _below(figure, _legend(with_data=x is not None))
    beside = "" if x is None else f" and of {len(x):,} data"
    figure.suptitle(
        f"Each column of {len(drawn):,} draws from the model{beside}{_some(len(shown), len(names), why)}",
        fontsize=10,
    )
    return whole(figure)


def draw_reconstructed_columns(
    x: Tensor, made: Tensor, column_names: Sequence[str], within: SubFigure | None
) -> Figure:
    """Draw each column of data against its reconstruction, with the share of variance that it explains.

    Args:
        x: the data, `(N, *x_shape)`.
        made: their reconstructions, in the same shape.
        column_names: the names of the columns, or none.
        within: the subfigure to draw in. None means a new figure.
    """
    names, data, found = names_of_columns(x, column_names), _flat(x), _flat(made)
    shares = [_explained(data[:, c], found[:, c]) for c in range(len(names))]
    most = _PANELS if within is None else _FEW
    worst = np.argsort(shares)[:most].tolist()
    shown = sorted(worst) if len(names) > most else [*range(len(names))]
    figure, axes = panels(len(shown), within, 11.0)
    for panel, column in zip(axes, shown, strict=True):
        ends = [min(data[:, column].min(), found[:, column].min())]
        ends.append(max(data[:, column].max(), found[:, column].max()))
        panel.plot(ends, ends, color=ink(), lw=0.8)
        area = point_area(4 * len(data))
        panel.scatter(data[:, column], found[:, column], s=area, color=_MODEL, linewidths=0)
        share = "constant" if math.isnan(shares[column]) else f"R² = {shares[column]:.2f}"
        panel.set_title(f"{names[column]}: {share}", fontsize=9)
        panel.tick_params(labelsize=8)
        hide_top_and_right(panel)
    figure.supxlabel("x, the data", fontsize=9)
    figure.supylabel("E[x | z], their reconstruction", fontsize=9)
    figure.suptitle(
        f"Reconstruction of each column of {len(x):,} data at the posterior mean: perfect on the line"
        f"{_some(len(shown), len(names), 'are reconstructed worst')}",
        fontsize=10,
    )
    return whole(figure)


def draw_moved_columns(
    moved: Tensor, x: Tensor, row_labels: Sequence[str], levels: Sequence[float], names: Sequence[str]
) -> Figure:
    """Draw how far each latent dimension moves each column, in standard deviations of the data.

    Args:
        moved: vectors `(D, Q, *x_shape)` for D dimensions at Q quantiles of the prior.
        x: the data, `(N, *x_shape)`.
        row_labels: the names of the D dimensions.
        levels: the levels of the Q quantiles.
        names: the names of the columns, or none.
    """
    names, low, high = names_of_columns(x, names), levels.index(0.05), levels.index(0.95)
    scale = _flat(x).std(0, ddof=1) if len(x) > 1 else np.zeros(len(names))
    steps = _flat(moved[:, high]) - _flat(moved[:, low])
    change = steps / np.where(scale > 0, scale, 1)
    width, height = 2.5 + 0.42 * len(names), 1.9 + 0.42 * len(row_labels)
    figure = Canvas(figsize=(min(width, 20), height), layout="constrained")
    axes = figure.subplots()
    most = float(np.abs(change).max()) or 1.0
    image = axes.imshow(change, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(row_labels)), row_labels)
    figure.colorbar(image, label="standard deviations")
    axes.set_title(
        "Latent traversals: the change of E[x | z] from the prior's 5% to its 95% quantile\n"
        "in one dimension, the others at a datum's posterior mean",
        fontsize=10,
    )
    return figure


def scatter_mixed(axes: Axes, groups: Sequence[np.ndarray], colours: Sequence[str]) -> None:
    """Draw groups of points `(N, 2)` in random order, so that none covers the others."""
    points = np.concatenate(groups)
    of_point = np.repeat(colours, [len(group) for group in groups])
    order = np.random.default_rng(0).permutation(len(points))
    area = point_area(2 * len(points))
    axes.scatter(points[order, 0], points[order, 1], s=area, c=of_point[order], linewidths=0)


def names_of_columns(x: Tensor, names: Sequence[str] = ()) -> list[str]:
    """Return the names of the columns of data `(N, *x_shape)`: those given, or x[0], x[1], ...

    Raises:
        InputError: there is not one name for each column.
    """
    shape = tuple(x.shape[1:])
    if len(names) not in (0, math.prod(shape)):
        raise InputError(f"there are {len(names)} names and {math.prod(shape)} columns: name each column.")
    return [shown_name(str(name)) for name in names] or [
        f"x[{', '.join(map(str, place))}]" for place in np.ndindex(shape)
    ]


def _in_lines(name: str) -> str:
    """Return a name in lines that are no longer than a panel is wide; it breaks behind signs such as _."""
    lines = [""]
    for piece in re.findall(r"[^_/.\s-]*[_/.\s-]*", name):
        if lines[-1] and len(lines[-1] + piece) > _LINE:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def _flat(values: Tensor) -> np.ndarray:
    flat: np.ndarray = values.detach().cpu().reshape(len(values), -1).double().numpy()
    return flat


def _histograms(axes: Axes, of_model: np.ndarray, of_data: np.ndarray | None) -> None:
    both = of_model if of_data is None else np.concatenate([of_data, of_model])
    bins = int(np.clip(np.sqrt(len(both if of_data is None else of_data)), 10, 40))
    edges = np.histogram_bin_edges(both, bins).tolist()
    if of_data is not None:
        axes.hist(of_data, edges, density=True, color=_DATA, alpha=0.5)
    axes.hist(of_model, edges, density=True, histtype="step", color=_MODEL, lw=1.5)


def _legend(with_data: bool = True) -> list[Patch]:
    of_model = Patch(fill=False, edgecolor=_MODEL, lw=1.5, label="draws from the model")
    return [Patch(color=_DATA, alpha=0.5, label="data"), of_model] if with_data else [of_model]


def _below(figure: Any, handles: Sequence[Patch | Line2D]) -> None:
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9
    )


def _some(shown: int, total: int, why: str, chosen: object = None) -> str:
    """Say which columns are shown, if not all are."""
    return "" if shown == total or chosen is not None else f"\n(the {shown} of {total} columns that {why})"


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest distance between two distribution functions (Kolmogorov and Smirnov)."""
    points = np.concatenate([first, second])
    cumulated = [np.searchsorted(np.sort(v), points, side="right") / len(v) for v in (first, second)]
    return float(np.abs(cumulated[0] - cumulated[1]).max())


def _explained(x: np.ndarray, made: np.ndarray) -> float:
    """Return the share of variance that a reconstruction explains; NaN for a constant column."""
    spread = np.square(x - x.mean()).sum()
    return float(1 - np.square(x - made).sum() / spread) if spread > 0 else math.nan


def _most_dependent(values: np.ndarray) -> list[int]:
    """Return the columns that depend most on another one, in their order, by their rank correlations."""
    if values.shape[1] <= _PAIRS:
        return [*range(values.shape[1])]
    ranks = values.argsort(0).argsort(0)
    related = np.abs(np.corrcoef(ranks, rowvar=False))
    np.fill_diagonal(related, 0)
    constant = values.std(0) == 0
    related[constant], related[:, constant] = -1, -1
    return sorted(np.argsort(related.max(0))[::-1][:_PAIRS].tolist())
