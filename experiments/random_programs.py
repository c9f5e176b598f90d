"""Hold the library's numbers for thousands of random programs against exact answers.

Programs are random directed graphs of normal and categorical sites, under random plates, with latents that
are drawn, enumerated or global, and networks that do or do not take leading dimensions. The generator, the
exact answers and the comparisons are those of `tests/property`, where a few dozen programs run as tests.
Each disagreement is shrunk to a small program, which the report prints.

    python experiments/random_programs.py --count 2000 --seed 1
"""

from __future__ import annotations

import importlib
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from reporting import RESULTS, command_line

from pyrovae.runs.provenance import git_commit, versions
from pyrovae.storage import write_atomically

sys.path.append(str(Path(__file__).parents[1] / "tests" / "property"))
comparisons: Any = importlib.import_module("comparisons")
programs: Any = importlib.import_module("program_strategy").programs

BATCH = 40  # programs that hypothesis generates from one seed
SCOPES = ("local", "local", "local", "points", "joint")  # of the programs of successive batches

app = command_line(__doc__)


@dataclass
class Tally:
    """Counts over all programs.

    Attributes:
        outcomes: the outcome of each program.
        kinds: the batch in which each kind of failure came first, and its scope.
    """

    outcomes: dict[Any, Any] = field(default_factory=dict)
    kinds: dict[str, tuple[int, str]] = field(default_factory=dict)


@app.default
def main(
    count: int = 2000, seed: int = 1, minutes: float = 60.0, shrink: int = 12, report: bool = True
) -> None:
    """Try random programs, and write the counts to `results/random_programs.md`.

    Args:
        count: the number of programs, all different.
        seed: the seed of the first batch of programs.
        minutes: the time after which no further program is tried.
        shrink: the number of kinds of disagreement whose smallest program is looked for.
        report: write the file; else the report is printed.
    """
    torch.set_num_threads(1)
    tally, start, batch = Tally(), time.monotonic(), seed
    end = start + 60 * minutes
    while len(tally.outcomes) < count and time.monotonic() < end:
        scope = SCOPES[batch % len(SCOPES)]
        generate(batch, scope, partial(note, tally, (batch, scope), end))
        batch += 1
    taken = time.monotonic() - start
    smallest = [shrunk(kind, *at) for kind, at in list(tally.kinds.items())[:shrink]]
    text = page(tally, taken, seed, batch - 1, smallest)
    if report:
        write_atomically(RESULTS / "random_programs.md", text.encode())
    else:
        print(text)


def generate(batch: int, scope: str, use: Callable[[Any], None], *phases: Phase) -> None:
    """Generate a batch of programs. An error in `use` ends it, after shrinking if that is asked for."""
    silent = settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        phases=[Phase.generate, *phases],
        suppress_health_check=list(HealthCheck),
    )

    def run(program: Any) -> None:
        use(program)

    seed(batch)(silent(given(programs(scope))(run)))()


def note(tally: Tally, at: tuple[int, str], end: float, program: Any) -> None:
    """Check a program, unless an equal one came before or the time is over."""
    if program not in tally.outcomes and time.monotonic() < end:
        tally.outcomes[program] = outcome = comparisons.check(program)
        for line in outcome.failures:
            tally.kinds.setdefault(kind_of(line), at)


def kind_of(failure: str) -> str:
    """The quantity and the first words of a failure, without names and numbers."""
    plain = re.sub(r"'\w+'|[-+]?\d+(\.\d+)?(e[-+]?\d+)?|\([^)]*\)|\[[^]]*\]", "#", failure)
    return plain[:90]


def shrunk(kind: str, batch: int, scope: str) -> str:
    """Generate a batch again, and return the report of the smallest program with a failure of this kind."""
    quantity = kind.split(":")[0]
    smallest: dict[str, Any] = {}

    def fail(program: Any) -> None:
        outcome = comparisons.check(program, lambda name: name == quantity)
        if any(kind_of(line) == kind for line in outcome.failures):
            smallest["outcome"] = outcome
            raise AssertionError(kind)

    with suppress(AssertionError):
        generate(batch, scope, fail, Phase.shrink)
    return comparisons.report(smallest["outcome"]) if smallest else f"{kind} (not found again)"


def page(tally: Tally, taken: float, first: int, last: int, smallest: list[str]) -> str:
    """Return the report."""
    outcomes = list(tally.outcomes.values())
    failing = sum(bool(outcome.failures) for outcome in outcomes)
    command = " ".join(["python", *sys.argv])
    text = f"""# Random programs

`{command}`, commit {git_commit()}, torch {versions()["torch"]}, one core, {taken / 60:.0f} minutes; batches
{first} to {last} of {BATCH} programs.

{len(outcomes)} different programs, {failing} with a disagreement or an error. {shares(outcomes)}

{table("quantity, agree, refused, uncertain, absent, disagree", counts(outcomes))}

Uncertain: the importance weights vary so much that an error bar says little. Absent: the program has no
such quantity, or another check covers it.

{table("refused, cause, programs", causes(outcomes))}

Differences over their standard errors:

{table("quantity, comparisons, mean, standard deviation, largest", z_scores(outcomes))}
"""
    return text + "".join(f"\n```python\n{program}\n```\n" for program in smallest)


def table(header: str, rows: Iterable[Sequence[Any]]) -> str:
    """Return a table in Markdown."""
    names = header.split(", ")
    every = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in every)


def counts(outcomes: list[Any]) -> list[list[Any]]:
    """Count the programs that agree in a quantity, are refused, uncertain, without it, or disagree."""
    rows = []
    for name in comparisons.CHECKS:
        listed = [
            sum(name in getattr(outcome, kind) for outcome in outcomes)
            for kind in ("agreed", "refused", "uncertain", "absent")
        ]
        rows.append([name, *listed, len(outcomes) - sum(listed)])
    return rows


def causes(outcomes: list[Any]) -> list[tuple[str, str, int]]:
    """Count the refused programs by quantity and cause."""
    found = Counter(item for outcome in outcomes for item in outcome.refused.items())
    return [(quantity, cause, number) for (quantity, cause), number in sorted(found.items())]


def shares(outcomes: list[Any]) -> str:
    """Say how many of the programs with local latents alone are refused."""
    local = [o for o in outcomes if not o.program.globals]
    trained = sum("training" in o.refused for o in local)
    evaluated = sum("evidence" in o.refused and "training" not in o.refused for o in local)
    return (
        f"Of the {len(local)} with local latents only, training refuses {trained}, and evaluation refuses "
        f"{evaluated} more."
    )


def z_scores(outcomes: list[Any]) -> list[list[Any]]:
    """Summarise the differences over their standard errors."""
    every: dict[str, list[float]] = {}
    for outcome in outcomes:
        for name, scores in outcome.z_scores.items():
            every.setdefault(name, []).extend(scores)
    return [
        [name, len(z), *(f"{v:.2f}" for v in (statistics.mean(z), statistics.pstdev(z), max(map(abs, z))))]
        for name, z in every.items()
        if z
    ]


if __name__ == "__main__":
    app()
