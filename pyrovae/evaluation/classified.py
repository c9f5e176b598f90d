"""How well a pair classifies data: errors over all data and by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrovae import small_tables
from pyrovae.errors import InputError
from pyrovae.evaluation.classification import class_probabilities, error_rate
from pyrovae.evaluation.json_files import write_json
from pyrovae.programs.pair import ModelAndGuide, takes_pair


@dataclass(frozen=True, eq=False)
class Classification:
    """The class probabilities of data, beside their true classes.

    Attributes:
        probabilities: the probability of each class, `(N, C)`.
        y: the true classes, `(N,)`, counted from 0.
        class_names: the names of the C classes.
    """

    probabilities: Tensor
    y: Tensor
    class_names: tuple[str, ...]

    @property
    def error_rate(self) -> float:
        """The share of data whose most probable class is wrong, in %."""
        return error_rate(self.probabilities, self.y)

    @property
    def balanced_accuracy(self) -> float:
        """The share of data that is classified right, in %, averaged over the classes that occur."""
        return balanced_accuracy(self.counts)

    @property
    def log_loss(self) -> float:
        """The mean of -log p(y | x), in nats per datum."""
        of_truth = self.probabilities.double().gather(1, self.y[:, None])
        return -of_truth.clamp(min=torch.finfo(torch.double).tiny).log().mean().item()

    @cached_property
    def counts(self) -> Tensor:
        """The number of data of each true class (row) with each predicted class (column), `(C, C)`."""
        return confusion_counts(self.y, self.probabilities.argmax(-1), self.probabilities.shape[1])

    def summary(self) -> dict[str, Any]:
        """Return the figures to report, as plain numbers."""
        return {
            "error_rate": self.error_rate,
            "balanced_accuracy": self.balanced_accuracy,
            "log_loss": self.log_loss,
            "counts": self.counts.tolist(),
            "class_names": list(self.class_names),
            "num_data": len(self.y),
        }

    def to_json(self, path: str | Path) -> None:
        """Write the summary to a JSON file."""
        write_json(path, self.summary())

    @property
    def _rows(self) -> list[tuple[str, str, str]]:
        """The name, the number of data and the share that is classified right, of each class."""
        rows = zip(self.class_names, self.counts.diag().tolist(), self.counts.sum(1).tolist(), strict=True)
        return [
            (name, f"{all_:,}", f"{100 * right / all_:.1f} %" if all_ else "") for name, right, all_ in rows
        ]

    @property
    def _first(self) -> str:
        return (
            f"error {self.error_rate:.2f} % of {len(self.y):,} data, balanced accuracy "
            f"{self.balanced_accuracy:.2f} %, log loss {self.log_loss:.3f} nats per datum"
        )

    def __str__(self) -> str:
        width = max(map(len, self.class_names))
        lines = [f"{name:>{width}}: {right:>7} of {count} right" for name, count, right in self._rows]
        return "\n".join([self._first, *lines])

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        return small_tables.html(("class", "data", "right"), self._rows, self._first)


@takes_pair
def classify(
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor,
    *,
    given: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
    num_samples: int = 100,
    seed: int = 0,
) -> Classification:
    """Classify data by the pair's own classifier (`class_probabilities`), and compare with their classes.

    Args:
        pair: a trained pair with classes.
        x: the data, `(N, *x_shape)`.
        y: their true classes, `(N,)`, counted from 0.
        given: further arguments of both programs by name, as in `fit`. None means nothing.
        class_names: the names of the C classes; by default their numbers.
        num_samples: the number of draws for each datum, if the model alone has the class.
        seed: the seed of these draws.

    Raises:
        InputError: the pair has no classes, there is not one known class for each datum, or the names do
            not fit.

    Example:
        >>> result = classify(m2, x_test, y_test)     # doctest: +SKIP
        >>> print(result)                             # doctest: +SKIP
    """
    found = class_probabilities(pair, x, given=given, num_samples=num_samples, seed=seed).cpu()
    number = found.shape[1]
    if len(class_names) not in (0, number):
        raise InputError(f"class_names has {len(class_names)} names; the pair has {number} classes.")
    if int(y.max()) >= number:
        raise InputError(
            f"y holds the class {int(y.max())}; the pair has {number} classes, counted from 0: leave these "
            "data out, or renumber the classes."
        )
    names = tuple(class_names) or tuple(map(str, range(number)))
    error_rate(found, y.cpu())  # which refuses unknown classes
    return Classification(found, y.cpu(), names)


def balanced_accuracy(counts: Tensor) -> float:
    """Return the share of data that is classified right, in %, averaged over the classes that occur.

    Args:
        counts: the number of data of each true class (row) with each predicted class (column), `(C, C)`.
    """
    right, totals = counts.diag(), counts.sum(1)
    return 100 * (right[totals > 0] / totals[totals > 0]).mean().item()


def confusion_counts(y: Tensor, predicted: Tensor, size: int) -> Tensor:
    """Return the number of data of each true class (row) with each predicted class (column).

    Args:
        y: the true classes, `(N,)`.
        predicted: the predicted classes, `(N,)`.
        size: the number of classes.
    """
    return (size * y.to(predicted.device) + predicted).bincount(minlength=size * size).view(size, size)
