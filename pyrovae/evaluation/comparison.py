"""The comparison of models by their evidence on the same data, with the errors of the differences.

Two estimates of log p(x) on the same N data vary together, since hard data are hard for every model. The
error of their difference is therefore that of the paired differences,

    d_n = log p_1(x_n) - log p_2(x_n),        dse = sd(d) / sqrt(N)

and much smaller than the errors of the two means (as in Vehtari et al. 2017, section 5). The noise of the
draws of z is in d_n, and so in its standard deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from pyrovae import small_tables
from pyrovae.errors import InputError
from pyrovae.evaluation.evidence import MarginalLikelihood
from pyrovae.evaluation.json_files import write_json
from pyrovae.evaluation.statistics import data_std_error, shown


@dataclass(frozen=True)
class ComparedModel:
    """One model of a comparison.

    Attributes:
        name: the model's name.
        mean: the mean of log p(x), nats per datum.
        data_std_error: its standard error due to the choice of the data.
        difference: how far the mean is below that of the best model, nats per datum; 0 for the best.
        difference_std_error: the standard error of `difference`, from the paired differences; 0 for the
            best.
        is_poor_proposal: whether k-hat says that the guide is a poor proposal, so that `mean` is too low.
    """

    name: str
    mean: float
    data_std_error: float
    difference: float
    difference_std_error: float
    is_poor_proposal: bool


@dataclass(frozen=True)
class Comparison:
    """Models, the best one first; see `compare`.

    Attributes:
        models: the models.
        num_data: N, the number of data.
    """

    models: tuple[ComparedModel, ...]
    num_data: int

    def content(self) -> dict[str, Any]:
        """Return the table as plain values."""
        return {"num_data": self.num_data, "models": [asdict(model) for model in self.models]}

    def to_json(self, path: str | Path) -> None:
        """Write the table (NaN as null)."""
        write_json(path, self.content())

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the heads of the columns, and the rows, as text."""
        rows = [
            [
                str(rank),
                model.name,
                f"{model.mean:.3f}",
                shown(model.data_std_error),
                f"{model.difference:.3f}",
                shown(model.difference_std_error),
                "poor proposal" if model.is_poor_proposal else "",
            ]
            for rank, model in enumerate(self.models)
        ]
        return ["rank", "model", "log p(x)", "se", "difference", "dse", "k-hat"], rows

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        (_, *heads), rows = self.table()
        note = "dse is the standard error of the difference to the best model, datum by datum."
        return small_tables.html(
            heads, [row[1:] for row in rows], f"Nats per datum, {self.num_data} data", [note]
        )

    def __str__(self) -> str:
        heads, rows = self.table()
        return "\n".join(
            [
                *small_tables.text(heads, rows, words=[heads.index("model"), heads.index("k-hat")]),
                f"nats per datum, {self.num_data} data; dse is the standard error of the difference to the "
                "best model, datum by datum",
            ]
        )


class HasEvidence(Protocol):
    """A trained model with data of its own, such as a `pyrovae.recipes.Run`."""

    def evidence(self, *, num_samples: int) -> MarginalLikelihood:
        """Estimate log p(x) of each datum."""


def compare(
    models: Mapping[str, MarginalLikelihood | HasEvidence], *, num_samples: int = 5000
) -> Comparison:
    """Rank models by their evidence on the same data.

    Args:
        models: by the model's name, what `marginal_likelihood` returned for it, or its run
            (`pyrovae.recipes.Run`), whose evidence on its test data is then estimated.
        num_samples: K, the number of draws for each datum of a run.

    Returns:
        The models, the best one first. Each has its difference to the best one, with the standard error of
        the paired differences.

    Raises:
        InputError: there are fewer than two models; the results are of different data; one is the evidence
            of all data together, which has no single data to pair; or there is only one datum.

    Example:
        >>> import torch
        >>> from pyrovae.evaluation import compare, marginal_likelihood
        >>> from pyrovae.models import PPCA
        >>> x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        >>> results = {}
        >>> for size in (1, 2):
        ...     ppca = PPCA((4,), size)
        ...     ppca.fit_closed_form(x)
        ...     results[f"M = {size}"] = marginal_likelihood(ppca, x, num_samples=50)
        >>> compare(results).models[0].name
        'M = 2'
    """
    results = {
        name: model.evidence(num_samples=num_samples) if hasattr(model, "evidence") else model
        for name, model in models.items()
    }
    _check(results)
    best = max(results, key=lambda name: results[name].mean)
    rows = []
    for name, result in results.items():
        differences = results[best].log_px - result.log_px
        rows.append(
            ComparedModel(
                name,
                result.mean,
                result.data_std_error,
                differences.mean().item(),
                data_std_error(differences),
                result.is_poor_proposal,
            )
        )
    return Comparison(tuple(sorted(rows, key=lambda model: model.difference)), len(results[best].log_px))


def _check(results: Mapping[str, MarginalLikelihood]) -> None:
    if len(results) < 2:
        raise InputError(
            f"a comparison needs at least two results, and is given {len(results)}: add others."
        )
    for name, result in results.items():
        if not isinstance(result, MarginalLikelihood):
            raise InputError(
                f"the result of {name!r} is a {type(result).__name__}; expected what marginal_likelihood "
                "returns."
            )
        if result.joint:
            raise InputError(
                f"the result of {name!r} is the evidence of all data together, which has no single data "
                "whose differences could be compared: subtract the two numbers."
            )
    first, *others = results
    for name in others:
        if results[name].data != results[first].data:
            raise InputError(
                f"{first!r} and {name!r} were scored on different data (shape and digest are "
                f"{results[first].data} and {results[name].data}): score both on the same data, prepared "
                "in the same way."
            )
    if len(results[first].log_px) < 2:
        raise InputError("the results are of a single datum: a standard error needs at least two.")
