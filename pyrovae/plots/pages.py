"""A page that shows a trained pair at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.canvas import Canvas
from pyrovae.compute.devices import on_the_cpu
from pyrovae.diagrams import PlateDiagram, plate_diagram
from pyrovae.plots.completing import Complete
from pyrovae.plots.curves import (
    check_history,
    class_curves,
    class_terms,
    kl_curves,
    learning_curves,
)
from pyrovae.plots.generated import samples
from pyrovae.plots.grids import in_channels
from pyrovae.plots.reconstructed import reconstructions
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.rows import Arguments
from pyrovae.training import History

_SAMPLES = 50  # the number of images that are generated


@on_the_cpu
def overview(
    pair: ModelAndGuide,
    x: Tensor,
    history: History,
    *,
    title: str = "",
    diagram: PlateDiagram | None = None,
    original: Tensor | None = None,
    given: Mapping[str, Any] | None = None,
    complete: Complete | None = None,
    labels: Mapping[str, str] | None = None,
    column_names: Sequence[str] = (),
    class_names: Sequence[str] = (),
) -> Figure:
    """Draw a page about a trained pair: plate diagram, learning curves, samples and reconstructions.

    Args:
        pair: the trained pair.
        x: the data to reconstruct, `(N, *x_shape)`. Samples of vectors are drawn beside them.
        history: the history of the training.
        title: the title of the page.
        diagram: the plate diagram of the model and its guide. None means that of the pair on these data.
        original: the images before they were binarised; by default none.
        given: further arguments of both programs by name, a row for each datum. None means nothing.
        complete: a function that puts what is given into the images, as in `completing.Complete`; by
            default they are shown as they are.
        labels: the labels of the terms of semi-supervised training; see `class_curves`.
        column_names: the names of the columns of vectors; by default x[0], x[1], ...
        class_names: the names of the classes, if a class is given; by default their numbers.

    Raises:
        InputError: the model cannot generate, several of its sites observe data, or `history` is something
            else.
    """
    check_history("overview", history)
    if diagram is None:
        diagram = plate_diagram(pair, x, given=given)
    kl, terms = any("kl" in row for row in history.rows), class_terms(history)
    figure = Canvas(figsize=(11, 6.8 + 1.7 * kl + 2.5 * bool(terms)), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[1, 1.45])[0]
    ratios = [1.3, 1, *[0.85] * kl, *[1] * bool(terms)]
    plates, bound, *others = left.subplots(len(ratios), 1, height_ratios=ratios)
    upper, lower = right.subfigures(2, 1, squeeze=False, height_ratios=[5, 4])[:, 0]
    diagram.draw(plates)
    plates.set_title("Plate diagram, read off the program", fontsize=10)
    learning_curves(history, bound)
    if kl:
        kl_curves(history, others[0])
    if terms:
        class_curves(history, others[-1], labels)
    of_draws = None if given is None else Arguments((x,), given).first(_SAMPLES).kwargs
    number = _SAMPLES if in_channels(x) is not None or given is not None else None
    how: Any = {"column_names": column_names}
    again = None if complete is None else lambda images, rows: complete(images, rows % len(x))
    names: Any = {"class_names": class_names}
    samples(pair, number, x=x, given=of_draws, complete=again, within=upper, **names, **how)
    reconstructions(pair, x, original=original, given=given, complete=complete, within=lower, **how)
    figure.suptitle(title, fontsize=11)
    return figure
