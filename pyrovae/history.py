"""What happened in training: kept, shown and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyrovae.checkpoints import write_atomically


@dataclass
class History:
    """What happened in training: one row for each epoch, in nats per datum.

    `rows` hold `epoch`, `step`, `elbo` (unweighted), `reconstruction`, `kl`, `loss` (as weighted),
    `beta`, `learning_rate`, `seconds` and, with validation data, `validation_elbo`.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int | None = None
    stopped_early: bool = False

    def __getitem__(self, name: str) -> list[float]:
        """One column, `history["elbo"]`."""
        return [row[name] for row in self.rows]

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


def terms_per_datum(values: dict[str, Any], batch: int) -> dict[str, str]:
    shown = {name: float(value) / batch for name, value in values.items() if name != "loss"}
    if "reconstruction" in shown:
        shown = {"elbo": shown["reconstruction"] - shown["kl"], **shown}
    return {name: f"{value:.2f}" for name, value in shown.items()}
