"""Give the library thousands of random inputs, most of them faulty, and count what becomes of them.

The inputs are those of `tests/property/fuzz_inputs.py`: command lines, calls of the library, data files and
image folders, and damaged run folders. Each must succeed, or end in an error that says what is wrong.

    python experiments/fuzz.py --count 3000 --seed 1
"""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from reporting import RESULTS, command_line

from pyrovae.runs.provenance import git_commit, versions
from pyrovae.storage import write_atomically

sys.path.append(str(Path(__file__).parents[1] / "tests" / "property"))
inputs: Any = importlib.import_module("fuzz_inputs")

BATCH = 50  # inputs that hypothesis generates from one seed
ALLOWED = (
    *("success", "usage", "InputError", "CheckpointError", "NonFiniteError", "OSError with a file"),
    "TypeError of Python for a keyword",
)

app = command_line(__doc__)


@app.default
def main(count: int = 3000, seed: int = 1, minutes: float = 15.0, report: bool = True) -> None:
    """Try random inputs, and write the counts to `results/fuzz.md`.

    Args:
        count: The number of inputs.
        seed: The first seed. Each batch of inputs has the next one.
        minutes: The time after which no new batch begins.
        report: Whether to write the report.
    """
    begun = time.monotonic()
    found: Counter[tuple[str, str]] = Counter()
    examples: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        run = inputs.make_run(Path(folder))
        for number in range(seed, seed + -(-count // BATCH)):
            if time.monotonic() - begun > 60 * minutes:
                break
            _batch(number, run, found, examples)
            print(f"{found.total()} inputs, {_others(found)} others", flush=True)
    text = _report(found, examples, seed, time.monotonic() - begun)
    print(text)
    if report:
        write_atomically(RESULTS / "fuzz.md", text.encode())


def _batch(number: int, run: Path, found: Counter[tuple[str, str]], examples: dict[str, Any]) -> None:
    @seed(number)
    @settings(
        max_examples=BATCH,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(attack=inputs.attacks)
    def attempt(attack: Any) -> None:
        folder = Path(tempfile.mkdtemp())
        result = inputs.outcome(attack, run, folder)
        found[attack[0], result] += 1
        examples.setdefault(result, attack)
        shutil.rmtree(folder)

    attempt()


def _others(found: Counter[tuple[str, str]]) -> int:
    return sum(number for (_, result), number in found.items() if result not in ALLOWED)


def _report(found: Counter[tuple[str, str]], examples: dict[str, Any], seed: int, seconds: float) -> str:
    kinds = sorted({kind for kind, _ in found})
    lines = [
        "# Random inputs",
        "",
        f"{found.total()} inputs from seed {seed} in {seconds / 60:.0f} minutes: {_others(found)} ended "
        "otherwise than by success or by an error that says what is wrong.",
        "",
        f"Commit {git_commit()}; {', '.join(f'{name} {version}' for name, version in versions().items())}.",
        "",
        "| outcome | " + " | ".join(kinds) + " |",
        "| --- |" + " ---: |" * len(kinds),
    ]
    for result in ALLOWED:
        lines.append(f"| {result} | " + " | ".join(str(found[kind, result]) for kind in kinds) + " |")
    others = {
        kind: sum(n for (k, r), n in found.items() if k == kind and r not in ALLOWED) for kind in kinds
    }
    lines.append("| other | " + " | ".join(str(others[kind]) for kind in kinds) + " |")
    odd = sorted({result for _, result in found if result not in ALLOWED})
    lines += ["", *(f"- `{result}`: `{str(examples[result])[:200]!r}`" for result in odd)]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    app()
