"""Where the measurements of `benchmark.py` are kept: a file for each kind of device."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from measurements import Entry, Measurements
from reporting import RESULTS


def rows(entries: list[Entry]) -> Iterator[Entry]:
    """Make one row for each quantity, from its newest measurement."""
    newest = {(e["metric"], e["model"], e["size"], e["contestant"], e.get("amount", 0)): e for e in entries}
    for _, entry in sorted(newest.items()):
        machine = entry.get("card") or f"{entry['threads']} threads"
        yield entry | {
            "model": f"{entry['model']}, {entry['size']}",
            "dataset": "random binary images, 784 pixels",
            "protocol": f"{entry['contestant']}, {machine}",
            "std": None,
            "seeds": [0],
            "published": None,
            "source": None,
        }


class Record:
    """The measurements on one kind of device.

    Args:
        device: the device of all contestants: cpu or cuda.
        threads: the number of CPU threads.
        out: the folder of the results. None means `experiments/results`; with `quick`, a temporary folder.
        quick: whether the measurements are short ones, which only show that everything runs.

    Attributes:
        card: the name of the GPU, once a contestant has told it; None on a CPU.
    """

    def __init__(
        self, device: str = "cpu", threads: int = 2, out: Path | None = None, quick: bool = False
    ) -> None:
        folder = out or (Path(tempfile.gettempdir()) / "pyrovae-benchmark" if quick else RESULTS)
        name = "benchmark" if device == "cpu" else "benchmark-cuda"
        self.measurements = Measurements("benchmark", rows, folder, name)
        self.device, self.threads, self.quick = device, threads, quick
        self.card: str | None = None
        torch.set_num_threads(threads)

    def note(self, metric: str, model: str, size: str, contestant: str, **values: Any) -> None:
        """Write and print a measurement."""
        card = {"card": self.card} if self.card else {}
        known = {name: value for name, value in values.items() if not _is_nan(value)}
        self.measurements.add(
            {"metric": metric, "model": model, "size": size, "contestant": contestant}
            | {"threads": self.threads}
            | card
            | values
        )
        shown = ", ".join(f"{name} {value:.3g}" for name, value in known.items())
        print(f"{model}, {size}: {contestant}: {metric}: {shown}", flush=True)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
