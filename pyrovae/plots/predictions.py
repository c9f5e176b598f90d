"""Figures of predicted classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.canvas import Canvas
from pyrovae.compute.devices import on_the_cpu
from pyrovae.evaluation import class_probabilities, confusion_counts
from pyrovae.generation import num_classes
from pyrovae.plots.classes import named_classes, shown_name
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.rows import Arguments

_FEW = 7  # a matrix of fewer classes is narrower than its title in one line


@on_the_cpu
def confusion(
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor,
    *,
    given: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
) -> Figure:
    """Classify data by the pair's own classifier, and draw the confusion matrix.

    Args:
        pair: a trained pair with classes.
        x: the data, `(N, *x_shape)`.
        y: their true classes `(N,)`.
        given: further arguments of both programs by name, a row for each datum. None means nothing.
        class_names: the names of the classes; by default their numbers.

    Raises:
        InputError: the model has no classes, or there is not one class for each datum.
    """
    num_classes(pair, given=Arguments((x,), given or {}).rows(slice(1)).kwargs)
    return confusion_matrix(y, class_probabilities(pair, x, given=given), class_names)


@on_the_cpu
def confusion_matrix(y: Tensor, predicted: Tensor, class_names: Sequence[str] = ()) -> Figure:
    """Draw the number of data of each true class (row) that get each predicted class (column).

    Args:
        y: the true classes `(N,)`.
        predicted: the predicted classes `(N,)`, or the probabilities of all classes, `(N, C)`. The class
            with the largest probability is then the prediction.
        class_names: the names of the classes; by default their numbers.

    Raises:
        InputError: there is not one prediction for each datum, or a class has no name.

    Example:
        >>> import torch
        >>> figure = confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), ["cat", "dog"])
    """
    if predicted.dim() == 2:
        predicted = predicted.argmax(-1)
    named_classes(predicted, len(y), class_names)
    known = named_classes(torch.cat([y, predicted]), 2 * len(y), class_names)
    size = max(max(known) + 1, len(class_names))
    names = [*map(shown_name, class_names)] or [str(label) for label in range(size)]
    counts = confusion_counts(y, predicted, size)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    figure = Canvas(figsize=(1.6 + 0.55 * size, 1.4 + 0.5 * size), layout="constrained")
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
    newline = "\n" if size < _FEW else " "
    # It stands above the colour bar as well, which may begin higher than the matrix.
    figure.suptitle(
        f"Confusion matrix:{newline}{wrong} of {len(y)} wrong, error {wrong / len(y):.2%}", fontsize=10
    )
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    return figure
