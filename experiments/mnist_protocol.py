"""The protocol that the experiments on priors, posteriors and objectives share.

MNIST, 50,000 training images binarised afresh at each presentation, 10,000 for validation, and the 10,000
test images binarised once. Adam, with gradients clipped to a norm of 50. Over the first tenth of the epochs
beta rises from 0 to 1, and the learning rate from a tenth of its highest value, from which it falls to
zero, along two halves of a cosine. The epoch with the best bound on the validation images is kept. All of
this may be repeated from where it ended, with a lower highest rate or norm perhaps, but for beta, which
stays at 1 (warm restarts; Loshchilov & Hutter 2017). log p(x) of the test images by importance sampling.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from measurements import Entry, Measurements
from torch import Tensor, nn

from pyrovae import data, fit
from pyrovae.evaluation import MarginalLikelihood, marginal_likelihood
from pyrovae.objectives import Objective
from pyrovae.schedules import Schedule, constant, linear_warm_up
from pyrovae.storage import write_atomically
from pyrovae.training import History

X_SHAPE = (1, 28, 28)
VALIDATION = 10_000
CLIP_NORM = 50.0  # without it, 3e-3 on minibatches of 100 fell apart after 60 of 300 epochs
WARM_UP = 0.1  # of the epochs
NUM_SAMPLES = 5000

Epochs = Annotated[int, typer.Option(help="Passes through the training images, in each cycle.", min=1)]
Cycles = Annotated[int, typer.Option(help="How often the learning rate rises and falls.", min=1)]
BatchSize = Annotated[int, typer.Option(help="Images in a minibatch.", min=1)]
LearningRate = Annotated[float, typer.Option(help="The highest.", min=0)]
Decay = Annotated[
    float, typer.Option(help="The highest learning rate, over that of the cycle before.", min=0)
]
ClipNorm = Annotated[
    float,
    typer.Option(
        help=f"The gradient's largest norm in further cycles; in the first, {CLIP_NORM:g}.", min=1e-3
    ),
]
NumSamples = Annotated[int, typer.Option(help="Importance samples for each test image.", min=1)]
Seeds = Annotated[int, typer.Option(help="How many, from 0.", min=1)]
Threads = Annotated[int, typer.Option(help="Cores to use.", min=1)]
Runs = Annotated[Path, typer.Option(help="Where checkpoints go.")]


class Budget(NamedTuple):
    """How long a model is trained, and how it is scored.

    Attributes:
        epochs: passes through the training images, in each cycle.
        batch_size: images in a minibatch.
        learning_rate: the highest.
        num_samples: importance samples for each test image.
        cycles: how often the learning rate rises and falls.
        decay: the highest learning rate over that of the cycle before.
        clip_norm: the gradient's largest norm in cycles after the first.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    num_samples: int
    cycles: int = 1
    decay: float = 1.0
    clip_norm: float = CLIP_NORM


@cache
def images() -> tuple[Tensor, Tensor, Tensor]:
    """Training, validation and test images; the latter two binarised by one draw."""
    mnist = data.load("mnist")
    train, held_out = mnist.x_train[:-VALIDATION], mnist.x_train[-VALIDATION:]
    return train, data.binarise_static(held_out, 1000), data.binarise_static(mnist.x_test, 1000)


def train(
    model: nn.Module,
    budget: Budget,
    seed: int,
    folder: Path,
    objective: Objective | None = None,
    warm_up: bool = True,
) -> dict[str, Any]:
    """Train, or go on with a training that was interrupted; says how it went."""
    beta = linear_warm_up(WARM_UP * budget.epochs) if warm_up else constant(1.0)
    histories = [_cycle(model, budget._replace(clip_norm=CLIP_NORM), seed, folder, objective, beta)]
    for cycle in range(1, budget.cycles):
        rate = budget.learning_rate * budget.decay**cycle
        name = f"{folder.name}-cycle-{cycle + 1}-at-{rate:g}-clipped-at-{budget.clip_norm:g}"
        its_budget, its_seed = budget._replace(learning_rate=rate), seed + 1000 * cycle
        its_folder = folder.with_name(name)
        histories.append(_cycle(model, its_budget, its_seed, its_folder, objective, constant(1.0)))
    return {
        "best_epoch": histories[-1].best_epoch,
        "training_minutes": round(sum(sum(history["seconds"]) for history in histories) / 60, 1),
    }


def _cycle(
    model: nn.Module, budget: Budget, seed: int, folder: Path, objective: Objective | None, beta: Schedule
) -> History:
    """The learning rate's rise and fall, from the parameters as they are."""
    x, held_out, _ = images()
    return fit(
        model,  # type: ignore[arg-type]
        x,
        epochs=budget.epochs,
        batch_size=budget.batch_size,
        optimizer=partial(torch.optim.Adam, lr=budget.learning_rate, fused=True),
        scheduler=partial(
            torch.optim.lr_scheduler.OneCycleLR,
            max_lr=budget.learning_rate,
            total_steps=budget.epochs + 1,  # the last epoch's is above zero
            pct_start=WARM_UP,
            div_factor=10,
            cycle_momentum=False,
        ),
        objective=objective,
        beta=beta,
        transform=data.binarise,
        clip_norm=budget.clip_norm,
        validation=held_out,
        seed=seed,
        folder=folder,
        resume=True,
        progress=False,
        compile="on",
    )


def evaluate(model: nn.Module, num_samples: int) -> MarginalLikelihood:
    """log p(x) of the test images."""
    return marginal_likelihood(
        model,  # type: ignore[arg-type]
        images()[2],
        num_samples=num_samples,
        compile="on",
    )


class Job(NamedTuple):
    """One model to measure.

    Attributes:
        key: what tells it apart.
        build: seed -> model.
        options: of `train`.
        first: a training that goes before, by another job, which may have one before it too; it is
            shared with that job.
    """

    key: Entry
    build: Callable[[int], nn.Module]
    options: dict[str, Any]
    first: tuple[Job, Budget] | None = None


def measure(
    measurements: Measurements, jobs: Sequence[Job], budget: Budget, seeds: int, threads: int, runs: Path
) -> None:
    """Train and evaluate what is still to be done, one seed after another.

    Raises:
        typer.BadParameter: a setting of further cycles where there is one cycle.
    """
    if budget.cycles == 1 and (budget.decay != 1 or budget.clip_norm != CLIP_NORM):
        raise typer.BadParameter("--decay and --clip-norm are for further cycles: give --cycles 2 or more.")
    torch.set_num_threads(threads)
    for seed in range(seeds):
        for job in jobs:
            entry = job.key | budget._asdict() | {"seed": seed}
            if measurements.done(entry):
                continue
            model = job.build(seed)
            model.likelihood.start_at_marginals(images()[0])  # type: ignore[operator, union-attr]
            entry |= _train_stages(model, job, budget, seed, runs)
            start = time.perf_counter()
            result = evaluate(model, budget.num_samples)
            entry |= result.summary()
            minutes = round((time.perf_counter() - start) / 60, 1)
            measurements.add(entry | {"evaluation_minutes": minutes, "threads": threads})
            print(
                f"{_name(job)}, seed {seed}, {_length(budget)}: log p(x) = {result.mean:.2f} "
                f"({entry['training_minutes']} + {minutes} minutes)",
                flush=True,
            )


def _train_stages(model: nn.Module, job: Job, budget: Budget, seed: int, runs: Path) -> Entry:
    """Train by what goes before, then by the job itself; says how both went."""
    entry: Entry = {}
    if job.first:
        first, its_budget = job.first
        before = _train_stages(model, first, its_budget, seed, runs)
        entry["first_stage"] = first.key | its_budget._asdict() | before
    return entry | train(model, budget, seed, _folder(runs, job, budget, seed), **job.options)


def _name(job: Job) -> str:
    return " ".join(str(value) for value in job.key.values())


def _folder(runs: Path, job: Job, budget: Budget, seed: int) -> Path:
    run = f"{_name(job)} {budget.epochs} {budget.batch_size} {budget.learning_rate} {seed}"
    return runs / re.sub(r"\W+", "-", run)


def rows(
    entries: list[Entry],
    names: Iterable[str],
    baseline: tuple[Any, ...],
    published: dict[tuple[Any, ...], tuple[float, str]],
) -> Iterator[Entry]:
    """One row for each model and budget: mean and standard deviation over seeds.

    Args:
        entries: measurements, with `seed`, `log_likelihood` and the fields of `Budget`.
        names: what tells models apart.
        baseline: the model, by the values of `names`, that others are compared with, seed by seed.
        published: figures and their sources, by the values of `names`.
    """
    names = list(names)
    groups: dict[tuple[Any, ...], dict[int, Entry]] = {}
    for entry in entries:
        budget = Budget(**{field: entry[field] for field in Budget._fields if field in entry})
        groups.setdefault((*(entry[name] for name in names), budget), {})[entry["seed"]] = entry
    for (*model, budget), by_seed in sorted(groups.items(), key=str):
        values = {seed: by_seed[seed]["log_likelihood"] for seed in sorted(by_seed)}
        reference = groups.get((*baseline, budget), {}) if tuple(model) != baseline else {}
        gains = [
            value - reference[seed]["log_likelihood"] for seed, value in values.items() if seed in reference
        ]
        figure, source = published.get(tuple(model), (None, None))
        yield dict(zip(names, model, strict=True)) | {
            "model": ", ".join(str(part) for part in model),
            "dataset": "mnist",
            "protocol": f"dynamic binarisation, 50,000 training images, {_length(budget)}, "
            f"minibatches of {budget.batch_size}, learning rate {budget.learning_rate:g}, "
            f"K = {budget.num_samples:,}",
            "metric": "log_likelihood",
            "value": _mean(list(values.values())),
            "std": _deviation(list(values.values())),
            "gain": _mean(gains),
            "gain_std": _deviation(gains),
            "elbo": _mean([entry["elbo"] for entry in by_seed.values()]),
            "monte_carlo_std_error": round(max(e["mean_std_error"] for e in by_seed.values()), 4),
            "khat_above_limit": max(e["khat_above_limit"] for e in by_seed.values()),
            "seeds": list(values),
            **budget._asdict(),
            "published": figure,
            "published_gain": round(figure - published[baseline][0], 2) if figure and gains else None,
            "source": source,
        }


def _length(budget: Budget) -> str:
    """For the table; a single cycle is not mentioned."""
    again = f" {budget.cycles} times" if budget.cycles > 1 else ""
    slower = [f"each at {budget.decay:g} of the rate before"] if budget.decay != 1 else []
    clipped = [f"later ones clipped at {budget.clip_norm:g}"] if budget.clip_norm != CLIP_NORM else []
    settings = f" ({', '.join(slower + clipped)})" if slower + clipped else ""
    return f"{budget.epochs} epochs{again}{settings}"


def _mean(values: list[float]) -> float | None:
    return round(statistics.mean(values), 3) if values else None


def _deviation(values: list[float]) -> float | None:
    return round(statistics.stdev(values), 3) if len(values) > 1 else None


def markdown(measurements: Measurements, models: str, baseline: str) -> str:
    """A table for each budget, written beside the measurements; `models` heads its first column, and
    `baseline` is what the others are compared with."""
    if not measurements.content["measurements"]:
        raise typer.BadParameter("nothing has been measured so far: run the jobs first, by 'run'.")
    lines: list[str] = []
    by_quality = sorted(
        measurements.make_rows(measurements.content["measurements"]),
        key=lambda row: (row["epochs"] * row["cycles"], row["protocol"], row["value"]),
    )
    for protocol, group in groupby(by_quality, key=lambda row: row["protocol"]):
        lines += [
            f"{protocol[0].upper()}{protocol[1:]}:\n",
            f"| {models} | log p(x) | over {baseline} | ELBO | seeds | published | gain |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *(_line(row) for row in group),
            "",
        ]
    text = "\n".join(lines)
    write_atomically(measurements.path.with_suffix(".md"), text.encode())
    return text


def _line(row: Entry) -> str:
    cells = [
        row["model"],
        _with_spread(f"{row['value']:.2f}", row["std"]),
        "" if row["gain"] is None else _with_spread(f"{row['gain']:+.2f}", row["gain_std"]),
        f"{row['elbo']:.2f}",
        str(len(row["seeds"])),
        "" if row["published"] is None else f"{row['published']:.2f}, {row['source']}",
        "" if row["published_gain"] is None else f"{row['published_gain']:+.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _with_spread(number: str, deviation: float | None) -> str:
    return number if deviation is None else f"{number} ± {deviation:.2f}"
