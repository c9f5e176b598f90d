"""What happened in training: kept, shown and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyrovae.storage import write_atomically

COLUMNS = (
    *("epoch", "step", "elbo", "reconstruction", "kl", "loss"),
    *("beta", "learning_rate", "seconds"),
)
_OUTCOME = {
    "validation_bound": "importance-weighted validation bound",
    "validation_elbo": "validation ELBO",
    "elbo": "training ELBO",
    "kl": "KL",
}


@dataclass
class History:
    """What happened in training: one row for each epoch, in nats per datum.

    `rows` hold `epoch`, `step`, `elbo` (unweighted), `reconstruction`, `kl`, `loss` (as weighted),
    `beta`, `learning_rate`, `seconds` and, with validation data, `validation_elbo`, `validation_kl` and, if
    `IWAE` is trained, `validation_bound`, the importance-weighted one.
    Sites that have a weight of their own are no part of the ELBO: `y`, say, is a PC-VAE's mean log p(y | z)
    over labelled data, and `weight of y` its lambda. So is M2's `q(y | x)`, its mean log q(y | x). In
    `validation_y` the sum over labelled data is divided by the number of all validation data.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int | None = None
    stopped_early: bool = False

    def __getitem__(self, name: str) -> list[float]:
        """One column, `history["elbo"]`."""
        return [row[name] for row in self.rows]

    def exceeds(self, patience: int | None) -> bool:
        """Whether the best epoch lies so many epochs back, or more."""
        if patience is None or self.best_epoch is None:
            return False
        return len(self.rows) - self.best_epoch >= patience

    def outcome(self) -> str:
        """How many epochs were trained, and what the best one reached, or the last if none was chosen."""
        last = self.rows[(self.best_epoch or len(self.rows)) - 1]
        figures = ", ".join(f"{label} {last[key]:.2f}" for key, label in _OUTCOME.items() if key in last)
        which = "best epoch" if self.best_epoch else "last epoch"
        why = " (stopped early)" if self.stopped_early else ""
        return f"trained {len(self.rows)} epochs{why}; {which} {last['epoch']:.0f}: {figures} nats"

    def save(self, path: Path) -> None:
        """Write the rows as JSON."""
        write_atomically(path, json.dumps(vars(self), indent=1).encode())


@contextmanager
def tensorboard_scalars(folder: str | Path | None) -> Iterator[Callable[[dict[str, float]], None]]:
    """A function that writes a row of the history to TensorBoard, or does nothing."""
    if folder is None:
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and seldom wanted

    with SummaryWriter(str(folder)) as writer:

        def write(row: dict[str, float]) -> None:
            for name in row.keys() - {"epoch", "step"}:
                writer.add_scalar(name, row[name], int(row["step"]))

        yield write


def add_terms(
    terms: dict[str, Any], objective: Any, apart: Collection[str], count: float, share: float
) -> None:
    """Add what an objective noted in its last evaluation, on data of which `count` are
    in the minibatch, of a kind that is a `share` of all.

    The ELBO's two terms are per datum. The sites named in `apart` are no part of the ELBO; they and the
    classification's term are reported by name, per datum that has them.
    """
    observed = dict(getattr(objective, "observed", {}))
    extra = {name: observed.pop(name) for name in list(observed) if name in apart or name.startswith("q(")}
    for name, value in getattr(objective, "terms", {}).items():
        value = value - sum(extra[site] for site in extra if site in apart) * (name == "reconstruction")
        terms[name] = terms.get(name, 0.0) + share * value / count
    terms.update({name: value / count for name, value in extra.items()})


def shown_terms(values: dict[str, Any]) -> dict[str, str]:
    """The ELBO and its terms, for the progress bar."""
    shown = {name: float(value) for name, value in values.items() if name != "loss"}
    if "reconstruction" in shown:
        shown = {"elbo": shown["reconstruction"] - shown["kl"], **shown}
    return {name: f"{value:.2f}" for name, value in shown.items()}
