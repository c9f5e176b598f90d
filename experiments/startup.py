"""Measure the time that commands and imports take to start, compared with the import of torch and Pyro.

Every measurement is a whole process. The commands take turns, so that a disturbance on the machine affects
all of them. Each time is divided by the time of `import torch, pyro` in the same round, and the median of
these ratios over the rounds is reported beside its goal. One round before the others is not counted; it
compiles the bytecode and fills the file cache.

    python experiments/startup.py                 # on an idle machine, about two minutes
    python experiments/startup.py --rounds 3
    python experiments/startup.py report          # the table, from the last measurement
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter, validators
from reporting import RESULTS, command_line

from pyrovae.runs.provenance import git_commit, versions
from pyrovae.storage import write_atomically

PYROVAE, PYTHON = str(Path(sys.executable).with_name("pyrovae")), sys.executable
OWN_RECIPE = '''"""A recipe of a user's own: a small VAE."""

from pyrovae.likelihoods import Bernoulli
from pyrovae.models import VAE
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.recipes import About, Plan, Stage


def build(about: About, *, latent_dim: int = 2, width: int = 64) -> Plan:
    """A small VAE.

    Args:
        latent_dim: The number of latent dimensions.
        width: The number of hidden units.
    """
    encoder = MLP(about.x_shape, width, hidden=(width,))
    decoder = MLP(latent_dim, about.x_shape, hidden=(width,))
    vae = VAE(StandardNormal(latent_dim), Bernoulli(decoder), DiagonalNormal(encoder, latent_dim))
    return Plan([Stage(vae)])
'''


class Start(NamedTuple):
    """A process to start.

    Attributes:
        name: the command as a user types it.
        arguments: the program and its arguments.
        goal: the largest ratio to `import torch, pyro` that is wanted, or None for that import itself.
    """

    name: str
    arguments: list[str]
    goal: float | None


BASELINE = Start('python -c "import torch, pyro"', [PYTHON, "-c", "import torch, pyro"], None)
STARTS = (
    BASELINE,
    Start("pyrovae --help", [PYROVAE, "--help"], 0.3),
    Start("pyrovae --version", [PYROVAE, "--version"], 0.3),
    Start("pyrovae models", [PYROVAE, "models"], 0.3),
    Start(
        "pyrovae --install-completion",
        [PYROVAE, "--install-completion", "--shell", "bash", "--output", "completion"],
        0.3,
    ),
    Start("pyrovae train vae --help", [PYROVAE, "train", "vae", "--help"], 0.3),
    Start("pyrovae train m2 --help", [PYROVAE, "train", "m2", "--help"], 0.3),
    Start(
        'python -c "from pyrovae import fit, plate_diagram"',
        [PYTHON, "-c", "from pyrovae import fit, plate_diagram"],
        1.2,
    ),
    Start("pyrovae train mine.py:build --help", [PYROVAE, "train", "mine.py:build", "--help"], 1.3),
)

app = command_line(__doc__)


@app.default
def main(
    *,
    rounds: Annotated[int, Parameter(help="Rounds to measure.", validator=validators.Number(gte=1))] = 9,
) -> None:
    """Measure all commands and write the numbers and the table."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "mine.py").write_text(OWN_RECIPE)
        for start in STARTS:
            seconds_of(start, Path(folder))
        times: dict[str, list[float]] = {start.name: [] for start in STARTS}
        for _ in range(rounds):
            for start in STARTS:
                times[start.name].append(seconds_of(start, Path(folder)))
    content = {
        "command": f"python experiments/startup.py --rounds {rounds}",
        "versions": versions(),
        "git_commit": git_commit(),
        "rows": [row(start, times) for start in STARTS],
    }
    write_atomically(RESULTS / "startup.json", json.dumps(content, indent=1).encode() + b"\n")
    report()


def seconds_of(start: Start, folder: Path) -> float:
    """Measure the time of a process, in seconds.

    Args:
        start: the process.
        folder: its working folder and home, so that nothing is written anywhere else.

    Raises:
        SystemExit: when the process fails. The message is its error output.
    """
    environment = os.environ | {"HOME": str(folder)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # without bytecode, every start would compile torch
    begin = time.perf_counter()
    done = subprocess.run(start.arguments, cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(f"{start.name} failed with exit status {done.returncode}:\n{done.stderr}")
    return seconds


def row(start: Start, times: dict[str, list[float]]) -> dict[str, Any]:
    """Make a row of results.

    Args:
        start: the process.
        times: the seconds of each process in each round, by its name.
    """
    mine, baseline = times[start.name], times[BASELINE.name]
    ratios = [seconds / reference for seconds, reference in zip(mine, baseline, strict=True)]
    return {
        "model": start.name,
        "dataset": None,
        "protocol": f"whole processes that take turns; median of {len(mine)}",
        "metric": "startup_ratio",
        "value": round(statistics.median(ratios), 3),
        "std": round(statistics.stdev(ratios), 3) if len(ratios) > 1 else None,
        "seeds": [],
        "published": None,
        "source": None,
        "goal": start.goal,
        "seconds": round(statistics.median(mine), 3),
    }


@app.command
def report() -> None:
    """Write and print the table of the last measurement."""
    rows = json.loads((RESULTS / "startup.json").read_text())["rows"]
    text = table(rows)
    write_atomically(RESULTS / "startup.md", text.encode())
    print(text)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "# Time to start",
        "",
        f"{rows[0]['protocol'].capitalize()}. The ratio is to `import torch, pyro` in the same round.",
        "",
        "| command | ratio | goal | seconds |",
        "| --- | --- | --- | --- |",
    ]
    for one in rows:
        spread = f" ± {one['std']:.2f}" if one["std"] else ""
        goal = "" if one["goal"] is None else f"{one['goal']:.1f}"
        lines.append(f"| `{one['model']}` | {one['value']:.2f}{spread} | {goal} | {one['seconds']:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app()
