"""The history of a training run: one row for each epoch."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pyrovae import small_tables
from pyrovae.errors import CheckpointError, InputError
from pyrovae.storage import write_atomically
from pyrovae.training.plain import plain

Row = dict[str, float]
"""The numbers of an epoch by name."""

_DECODER = msgspec.json.Decoder(dict[str, int | float | None])

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


_ENDS = 3  # the number of epochs at each end of a short table


@dataclass
class History:
    """The history of a training run: one row for each epoch, in nats per datum.

    A row holds `epoch`, `step`, `elbo` (without weights), `reconstruction`, `kl`, `loss` (with weights),
    `beta`, `learning_rate` and `seconds`. With validation data it holds `validation_elbo`, `validation_kl`
    and, if `IWAE` is trained, the importance-weighted `validation_bound`. Numbers that callbacks log are
    added under their names.

    A site with a weight of its own is not part of the ELBO, and has its own column. For a PC-VAE, `y` is
    the mean log p(y | z) over labelled data, and `weight of y` is lambda. M2's classification term has a
    column too: `q(y | x)` is the mean log q(y | x) over labelled data. For `validation_y` the sum over
    labelled data is divided by the number of all validation data.

    Attributes:
        rows: the rows, the first epoch's first.
        best_epoch: the number of the epoch with the highest validation bound; None without validation data.
        stopped_early: whether the run ended before its last epoch, by `patience` or by a callback.
        stopped_by_callback: whether a callback ended the run.
        precision_error: the change that a lower precision of products makes to the loss: a mean absolute
            difference in nats per datum over the first minibatches, with the same random numbers. None in
            float32.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int | None = None
    stopped_early: bool = False
    stopped_by_callback: bool = False
    precision_error: float | None = None

    def __getitem__(self, name: str) -> list[float]:
        """Return a column, `history["elbo"]`, with NaN for epochs in which a callback did not log it.

        Raises:
            KeyError: there is no such column. The message names those that there are.
        """
        if name not in self:
            known = ", ".join(self.columns)
            of_pyro = (
                "" if "kl" in known else ". Pyro's objectives report no terms; train by pyrovae's ELBO()"
            )
            raise KeyError(f"the history has no column '{name}', but {known or 'no epoch yet'}{of_pyro}")
        return [row.get(name, math.nan) for row in self.rows]

    def __contains__(self, name: object) -> bool:
        """Return whether there is a column of this name, `"elbo" in history`."""
        return any(name in row for row in self.rows)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the columns."""
        return iter(self.columns)

    def exceeds(self, patience: int | None) -> bool:
        """Return whether at least `patience` epochs have passed since the best epoch."""
        if patience is None or self.best_epoch is None:
            return False
        return len(self.rows) - self.best_epoch >= patience

    def outcome(self) -> str:
        """Return a line of text: the number of epochs, and the figures of the best epoch or the last."""
        last = self.rows[(self.best_epoch or len(self.rows)) - 1]
        figures = ", ".join(f"{label} {last[key]:.2f}" for key, label in _OUTCOME.items() if key in last)
        which = "best epoch" if self.best_epoch else "last epoch"
        why = " (stopped early)" if self.stopped_early else ""
        moved = self.precision_error
        rounding = "" if moved is None else f"; rounding moved the loss by {moved:.2g}"
        return (
            f"trained {len(self.rows)} epochs{why}; {which} {last['epoch']:.0f}: {figures} nats{rounding}"
        )

    def table(self) -> Any:
        """Return the rows as a pandas DataFrame, with the epochs as its index.

        Raises:
            InputError: pandas is not installed.

        Example:
            >>> History([{"epoch": 1, "elbo": -9.0}, {"epoch": 2, "elbo": -7.5}]).table()["elbo"].tolist()
            [-9.0, -7.5]
        """
        try:
            from pandas import DataFrame  # slow to import
        except ImportError:
            raise InputError(
                "a table of the history needs pandas, which is not installed: install it (pip install "
                'pandas), or read columns by name (history["elbo"]) or rows (history.rows).'
            ) from None
        frame = DataFrame(self.rows, columns=self.columns)
        return frame.set_index("epoch") if self.rows else frame

    @property
    def columns(self) -> list[str]:
        """The names of the columns: those of every training, then others as they first appear."""
        found = dict.fromkeys(column for row in self.rows for column in row)
        return [name for name in COLUMNS if name in found] + [name for name in found if name not in COLUMNS]

    def __str__(self) -> str:
        if not self.rows:
            return "no epoch yet"
        return "\n".join([self.outcome(), *small_tables.text(*self._shown(), words=())])

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        return small_tables.html(*self._shown(), self.outcome()) if self.rows else str(self)

    def _shown(self) -> tuple[list[str], list[list[str]]]:
        """Return the columns and the rows of a short table, as text: first, best and last epochs."""
        names = [name for name in self.columns if name not in ("step", "seconds")]
        chosen = {*range(_ENDS), *range(len(self.rows) - _ENDS, len(self.rows)), (self.best_epoch or 1) - 1}
        places = sorted(chosen & {*range(len(self.rows))})
        table: list[list[str]] = []
        for before, place in zip([-1, *places], places, strict=False):
            if place > before + 1:
                table.append(["..."] * len(names))
            row = self.rows[place]
            table.append([_number(name, row[name]) if name in row else "" for name in names])
            table[-1][0] += "*" if place + 1 == self.best_epoch else ""
        return [f"{name}*" if name == "epoch" and self.best_epoch else name for name in names], table

    def save(self, path: Path) -> None:
        """Write the history as JSON."""
        write_atomically(path, json.dumps(vars(self), indent=1).encode())


def _number(name: str, value: float) -> str:
    if name == "epoch":
        return f"{value:.0f}"
    return f"{value:.3g}" if name in ("beta", "learning_rate") else f"{value:.2f}"


class HistoryFile:
    """The file with a history's rows, one line of JSON for each. Each epoch adds a line.

    A row that has changed since it was written, because a callback logged a number, is written once more.
    Of two lines for one epoch the later one counts.

    Args:
        path: the file.
        lines: the first bytes of the file, those of the checkpoint from which a run goes on.
        rows: the rows in them.
    """

    def __init__(self, path: Path, lines: bytes = b"", rows: Sequence[Row] = ()) -> None:
        self.path = path
        self._rows, self._last = len(rows), dict(rows[-1]) if rows else Row()
        self._size, self._digest = 0, hashlib.sha256()
        self._take(lines)

    def write(self, history: History) -> dict[str, Any]:
        """Write the rows that are new, and return what a checkpoint keeps of the history.

        Lines that stand after those of the checkpoint, from which a run went on, are cut off.

        Raises:
            OSError: the file cannot be written.
            CheckpointError: another process has changed it.
        """
        rows = history.rows
        first = self._rows
        if first and rows[first - 1] != self._last:
            first -= 1
        lines = b"".join(msgspec.json.encode(plain(row)) + b"\n" for row in rows[first:])
        try:
            self._write(lines)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._take(lines)
        self._rows, self._last = len(rows), dict(rows[-1]) if rows else Row()
        own = {name: value for name, value in vars(history).items() if name != "rows"}
        return {"epochs": len(rows), "bytes": self._size, "digest": self._digest.hexdigest(), **own}

    def _write(self, lines: bytes) -> None:
        with open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            if file.seek(0, os.SEEK_END) < self._size:
                raise CheckpointError(
                    f"{self.path} has become shorter while it was written: no other process may write to "
                    "a run's folder. Resume the run."
                )
            file.seek(self._size)
            file.truncate()
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def _take(self, lines: bytes) -> None:
        self._size += len(lines)
        self._digest.update(lines)


def rows_in(lines: bytes) -> list[Row]:
    """Return the rows in the lines of a history file.

    Raises:
        ValueError: the lines are not those of a history.
    """
    rows: list[Row] = []
    for row in _DECODER.decode_lines(lines):
        if rows and row.get("epoch") == rows[-1].get("epoch"):
            rows.pop()
        rows.append({name: math.nan if value is None else value for name, value in row.items()})
    return rows


@contextmanager
def tensorboard_scalars(
    folder: str | Path | None, rows: Sequence[Row] = ()
) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Yield a function that writes a history row to TensorBoard. Without a folder it does nothing.

    Args:
        folder: the folder of TensorBoard's files.
        rows: the rows of a run that goes on. The last one is written again, since the run may have been
            killed before it was written. All are written if the folder holds no scalars yet.
    """
    if folder is None:
        yield lambda row: None
        return
    written = any(Path(folder).glob("events.out.tfevents.*"))
    with ExitStack() as stack:
        writers: list[Any] = []

        def write(row: Mapping[str, float]) -> None:
            if not writers:  # no file before there is a row
                from torch.utils.tensorboard import SummaryWriter  # slow to import, and rarely needed

                purged = SummaryWriter(str(folder), purge_step=int(row["step"]))
                writers.append(stack.enter_context(purged))
            for name in row.keys() - {"epoch", "step"}:
                writers[0].add_scalar(name, row[name], int(row["step"]))
            writers[0].flush()

        for row in rows[-1:] if written else rows:
            write(row)
        yield write


def shown_terms(values: Mapping[str, float]) -> dict[str, str]:
    """Return the ELBO and its terms as text, for the progress bar."""
    shown = {name: value for name, value in values.items() if name != "loss"}
    if "reconstruction" in shown:
        shown = {"elbo": shown["reconstruction"] - shown["kl"], **shown}
    return {name: f"{value:.2f}" for name, value in shown.items()}
