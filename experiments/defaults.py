"""Measure what each default of the recipes is worth, and what all recipes give at their defaults.

Three tables, each from three seeds:

ablation     the VAE at its defaults, and without each of them in turn: log p(x) of validation data
all-recipes  each recipe at its defaults, and the VAE with each posterior and prior: bound, KL, active units
readme       the commands and Python blocks of the README: the KL term at their ends

The data are scikit-learn's digits, wine and breast cancer, and 10,000 images each of MNIST and
Fashion-MNIST, which are read from the folder that PYROVAE_DATA names. The validation data are further data
of the training set, a fifth as many, which no training sees. Tables have a Gaussian likelihood. The
defaults were chosen on seeds from 11 on.

    python experiments/defaults.py run --what ablation
    python experiments/defaults.py run --what all-recipes --dataset wine --seeds 1
    python experiments/defaults.py table

A command that is given again skips what is measured already.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter, validators
from measurements import Entry, Measurements
from reporting import RESULTS, command_line, some_of
from sklearn.datasets import load_breast_cancer, load_wine
from torch import Tensor

import pyrovae
from pyrovae import data
from pyrovae.errors import InputError, NonFiniteError
from pyrovae.evaluation import active_units, marginal_likelihood
from pyrovae.posteriors.table import POSTERIORS
from pyrovae.priors.table import PRIORS
from pyrovae.recipes import RECIPES, About, Training, load_recipe, options_of
from pyrovae.recipes.fitting import Fitted
from pyrovae.storage import write_atomically

ROOT = Path(__file__).parent.parent
TABLES = {"wine": load_wine, "breast cancer": load_breast_cancer}
IMAGES = ("digits", "mnist", "fashion-mnist")
WITHOUT: dict[str, dict[str, Any]] = {
    "all defaults": {},
    "decoder starts at random": {"start": False},
    "no warm-up of beta": {"warm_up": 0.0},
    "no warm-up of the learning rate": {"rate_warm_up": 0.0},
    "no decay of the learning rate": {"decay": "none"},
    "learning rate of 1e-3": {"learning_rate": 1e-3},
    "none of these": {
        "start": False,
        "warm_up": 0.0,
        "rate_warm_up": 0.0,
        "decay": "none",
        "learning_rate": 1e-3,
    },
}
"""The settings that take away a default, by what is taken away."""

RECIPES_IN_TURN: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in RECIPES},
    **{f"vae, posterior {name}": ("vae", {"posterior": name}) for name in POSTERIORS if name != "normal"},
    **{f"vae, prior {name}": ("vae", {"prior": name}) for name in PRIORS if name != "normal"},
}
"""The recipes and their options, by the name of the row."""

What = Literal["ablation", "all-recipes", "readme"]
Positive = validators.Number(gte=1)


@dataclass(frozen=True)
class Problem:
    """Data to learn and data to validate on.

    Attributes:
        x: the training data, `(N, *x_shape)`.
        y: their classes, `(N,)`.
        x_held: the validation data.
        y_held: their classes.
    """

    x: Tensor
    y: Tensor
    x_held: Tensor
    y_held: Tensor


def problem(name: str, seed: int, images: int) -> Problem:
    """Load a data set and split it. Of a large one take `images` data, and a fifth as many to validate."""
    if name in TABLES:
        table = TABLES[name]()
        x, y = torch.tensor(table.data, dtype=torch.float32), torch.tensor(table.target)
    else:
        loaded = data.load(name, seed=seed)
        assert loaded.y_train is not None
        x, y = loaded.x_train, loaded.y_train
    held = min(images, len(x)) // 5 if name in ("mnist", "fashion-mnist") else len(x) // 5
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    rest, kept = order[:held], order[held : held + images]
    return Problem(x[kept], y[kept], x[rest], y[rest])


def measured(p: Problem, recipe: str, options: dict[str, Any], how: dict[str, Any], samples: int) -> Entry:
    """Train a recipe at its defaults, apart from `how`, and measure it on the validation data.

    Args:
        p: the data.
        recipe: the recipe's name.
        options: its options.
        how: settings of `Training`; or `start`, whether the decoder starts at the data's marginals.
        samples: the number of importance samples.
    """
    build, start = load_recipe(recipe), time.process_time()
    if p.x.dim() == 2 and "likelihood" in options_of(build):
        options = {"likelihood": "gaussian"} | options
    settings = {name: value for name, value in how.items() if name != "start"}
    try:
        plan = build(About.of(p.x, p.y, seed=how["seed"]), **options)
        if not how.get("start", True):
            plan = plan.with_stage(0, start=None)
        fitted = plan.fit(p.x, p.y, training=Training(**settings), device="cpu")
    except (InputError, NonFiniteError) as error:
        kind = "refused" if isinstance(error, InputError) else "diverged"
        return {"verdict": f"{kind}: {error}", "cpu_seconds": time.process_time() - start}
    last = fitted.history.rows[-1]
    found: Entry = {"kl": last.get("validation_kl", last.get("kl")), "beta": last["beta"]}
    found |= {"verdict": " ".join(str(fitted.verdict).split())}
    return found | _scores(fitted, p, samples) | {"cpu_seconds": time.process_time() - start}


def _scores(fitted: Fitted, p: Problem, samples: int) -> Entry:
    """Return log p(x), the bound and the active units on the validation data; None where there are none."""
    x = fitted.presentation.fixed(p.x_held)
    stage = fitted.plan.stages[-1]
    given = None if stage.given is None else stage.given(x, p.y_held)
    y = (p.y_held,) if stage.needs_classes else ()
    found: Entry = {"log_px": None, "bound": None, "active": None}
    with contextlib.suppress(InputError):
        result = marginal_likelihood(fitted.pair, x, *y, given=given, num_samples=samples, bounds=())
        found |= {"log_px": result.mean, "bound": result.elbo}
    with contextlib.suppress(InputError):
        units = active_units(fitted.pair, x[:1000], *y, given=given)
        found["active"] = sum(units.counts.values())
    return found


# The README


def of_readme(seed: int) -> Iterator[tuple[str, Entry]]:
    """Run the README's Python blocks and its commands that train, and yield the KL term of each."""
    text = (ROOT / "README.md").read_text()
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        yield from _of_blocks(re.findall(r"```python\n(.*?)```", text, re.DOTALL), seed)
        lines = [
            line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()
        ]
        for line in lines:
            if line.startswith("pyrovae train"):
                yield line.partition("#")[0].strip(), _of_command(shlex.split(line, comments=True), seed)


def _of_blocks(blocks: list[str], seed: int) -> Iterator[tuple[str, Entry]]:
    original, found = pyrovae.fit, []

    def noted(*args: Any, **settings: Any) -> Any:
        history = original(*args, **({"seed": seed, "progress": False} | settings))
        found.append(history)
        return history

    names: dict[str, Any] = {"__name__": "README"}
    torch.manual_seed(seed)
    pyrovae.fit = noted
    try:
        for number, block in enumerate(blocks, start=1):
            exec(compile(block.replace("random_state=0", f"random_state={seed}"), "README", "exec"), names)
            if "SemiSupervisedVAEClassifier(" in block:
                found.append(names["classifier"].history_)
            for position, history in enumerate(found, start=1):
                last = history.rows[-1]
                yield f"block {number}, training {position}", {"kl": last["kl"], "beta": last["beta"]}
            found.clear()
    finally:
        pyrovae.fit = original


def _of_command(words: list[str], seed: int) -> Entry:
    command = [sys.executable, "-m", *words, "--seed", str(seed), "--device", "cpu", "--quiet"]
    folder = Path(words[words.index("--out") + 1])
    subprocess.run(command, check=True, capture_output=True)
    last = json.loads((folder / "history.json").read_text())["rows"][-1]
    found = {"kl": last["kl"], "beta": last["beta"]}
    if words[2] == "vae":
        score = [sys.executable, "-m", "pyrovae", "evaluate", str(folder), "--num-samples", "500"]
        subprocess.run([*score, "--device", "cpu"], check=True, capture_output=True)
        found["log_px"] = json.loads((folder / "metrics.json").read_text())["log_likelihood"]
    return found


# Rows and tables


def rows(entries: list[Entry]) -> Iterator[Entry]:
    """Return a row for each case: means and standard errors over the seeds."""
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        key = tuple(entry[name] for name in ("what", "dataset", "case", "epochs"))
        groups.setdefault(key, []).append(entry)
    for key, found in groups.items():
        row: Entry = dict(zip(("what", "dataset", "case", "epochs"), key, strict=True))
        row |= {"seeds": sorted(entry["seed"] for entry in found)}
        for name in ("log_px", "bound", "kl", "active", "beta"):
            values = [entry[name] for entry in found if entry.get(name) is not None]
            row[name] = float(statistics.mean(values)) if values else None
            row[f"{name}_std_error"] = (
                statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
            )
        verdicts = {str(entry["verdict"]) for entry in found if entry.get("verdict")}
        yield row | {"verdict": "; ".join(sorted(verdicts)), "minutes": _minutes(found)}


def _minutes(entries: list[Entry]) -> float:
    return sum(entry.get("cpu_seconds", 0.0) for entry in entries) / 60


MEASUREMENTS = Measurements("defaults", rows)
COLUMNS: dict[What, dict[str, str]] = {
    "ablation": {"case": "", "log_px": "log p(x)", "bound": "bound", "kl": "KL", "active": "active units"},
    "all-recipes": {
        "case": "",
        "bound": "bound",
        "log_px": "log p(x)",
        "kl": "KL",
        "active": "active units",
        "verdict": "verdict",
    },
    "readme": {"case": "", "kl": "KL", "log_px": "log p(x) of test images", "beta": "beta at the end"},
}


def markdown(found: Iterable[Entry]) -> str:
    """Return the rows as Markdown, a table for each data set."""
    lines = ["# Defaults", "", (__doc__ or "").split("\n\n")[3].replace("\n", " ")]
    lines += ["", "All figures are in nats per datum: mean ± standard error over the seeds."]
    by_table: dict[tuple[What, str, int], list[Entry]] = {}
    for row in found:
        by_table.setdefault((row["what"], row["dataset"], row["epochs"]), []).append(row)
    for (what, dataset, epochs), of_table in sorted(by_table.items()):
        seeds = max(len(row["seeds"]) for row in of_table)
        length = f", {epochs} epochs" if epochs else ""
        columns = COLUMNS[what]
        lines += ["", f"## {what}: {dataset}{length}", "", f"Seeds: {seeds}.", ""]
        lines += [f"| {' | '.join(columns.values())} |", f"|{' --- |' * len(columns)}"]
        lines += [f"| {' | '.join(_cell(row, name) for name in columns)} |" for row in of_table]
    return "\n".join(lines) + "\n"


def _cell(row: Entry, name: str) -> str:
    value, spread = row[name], row.get(f"{name}_std_error")
    if not isinstance(value, float):
        return str(value if value is not None else "")
    digits = 1 if name == "active" else 2
    return f"{value:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")


# The command line

app = command_line(__doc__)


@app.command
def run(
    *,
    what: What,
    dataset: Annotated[list[str] | None, some_of((*IMAGES, *TABLES))] = None,
    case: Annotated[list[str] | None, some_of((*WITHOUT, *RECIPES_IN_TURN))] = None,
    epochs: Annotated[int, Parameter(help="Epochs, of tables in the ablation 5 times as many.")] = 20,
    seeds: Annotated[int, Parameter(help="Seeds, from 1 on.", validator=Positive)] = 3,
    images: Annotated[int, Parameter(help="Images of a large data set.", validator=Positive)] = 10_000,
    num_samples: Annotated[int, Parameter(help="Importance samples.", validator=Positive)] = 500,
) -> None:
    """Measure what is not in the measurements yet."""
    warnings.filterwarnings("ignore", message="k-hat")
    for seed in range(1, seeds + 1):
        if what == "readme":
            if not MEASUREMENTS.done({"what": what, "seed": seed}):
                found = [
                    {"what": what, "dataset": "digits", "case": case, "epochs": 0, "seed": seed} | entry
                    for case, entry in of_readme(seed)
                ]
                for entry in found:
                    MEASUREMENTS.add(entry)
            continue
        cases = WITHOUT if what == "ablation" else RECIPES_IN_TURN
        for name in dataset or (*IMAGES, *TABLES):
            length = epochs * (5 if what == "ablation" and name in TABLES else 1)
            for each in case or cases:
                key = {"what": what, "dataset": name, "case": each, "epochs": length, "seed": seed}
                if MEASUREMENTS.done(key):
                    continue
                recipe, options = ("vae", {}) if what == "ablation" else RECIPES_IN_TURN[each]
                how = {"epochs": length, "seed": seed} | (WITHOUT[each] if what == "ablation" else {})
                entry = measured(problem(name, seed, images), recipe, options, how, num_samples)
                MEASUREMENTS.add(key | {"images": images} | entry)
                print({**key, **entry}, flush=True)


@app.command
def table() -> None:
    """Write and print the tables of all measurements."""
    text = markdown(MEASUREMENTS.update_rows())
    write_atomically(RESULTS / "defaults.md", text.encode())
    print(text)


if __name__ == "__main__":
    app()
