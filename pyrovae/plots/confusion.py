"""Figures of predicted classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.plots.classes import named_classes, shown_name


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
