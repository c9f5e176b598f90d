"""The protocol that the experiments on priors, posteriors and objectives share.

Data: MNIST. 50,000 training images are binarised afresh for every minibatch. 10,000 images for validation
and the 10,000 test images are binarised once.

Training: Adam, with gradients clipped to a norm of 50. During the first tenth of the epochs, beta rises
from 0 to 1, and the learning rate rises from a tenth of its peak to the peak. Then the learning rate falls
to zero. It follows half a cosine both up and down. The epoch with the best bound on the validation images
is kept. A training can go through several such cycles (warm restarts; Loshchilov & Hutter 2017). Later
cycles can have a lower peak and a lower clipping norm; beta stays at 1 in them.

Evaluation: log p(x) of the test images by importance sampling.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import torch
from cyclopts import Parameter, validators
from measurements import Entry, Measurements
from torch import Tensor

from pyrovae import data, fit
from pyrovae.evaluation import MarginalLikelihood, marginal_likelihood
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import VAE, HierarchicalVAE
from pyrovae.objectives import Objective
from pyrovae.schedules import Schedule, constant, linear_warm_up
from pyrovae.storage import write_atomically
from pyrovae.training import History, fit_many

X_SHAPE = (1, 28, 28)
VALIDATION = 10_000
CLIP_NORM = 50.0  # without clipping, a rate of 3e-3 with minibatches of 100 diverged after 60 of 300 epochs
WARM_UP = 0.1  # fraction of the epochs
NUM_SAMPLES = 5000

Positive, NotNegative = validators.Number(gte=1), validators.Number(gte=0)
Epochs = Annotated[int, Parameter(help="Training epochs in each cycle.", validator=Positive)]
Cycles = Annotated[int, Parameter(help="Cycles of the learning rate.", validator=Positive)]
BatchSize = Annotated[int, Parameter(help="Images in a minibatch.", validator=Positive)]
LearningRate = Annotated[
    float, Parameter(help="Peak of the learning rate in the first cycle.", validator=NotNegative)
]
Decay = Annotated[
    float, Parameter(help="Factor of the learning rate's peak from cycle to cycle.", validator=NotNegative)
]
ClipNorm = Annotated[
    float,
    Parameter(
        help=f"Largest norm of the gradient in later cycles. It is {CLIP_NORM:g} in the first cycle.",
        validator=validators.Number(gte=1e-3),
    ),
]
NumSamples = Annotated[int, Parameter(help="Importance samples for each test image.", validator=Positive)]
Seeds = Annotated[int, Parameter(help="Number of seeds. They count from 0.", validator=Positive)]
Threads = Annotated[int, Parameter(help="Number of CPU threads.", validator=Positive)]
Together = Annotated[
    bool, Parameter(help="Train all seeds of a model at once, without checkpoints, by fit_many.")
]
Runs = Annotated[Path, Parameter(help="Folder of the checkpoints.")]
Model = VAE | HierarchicalVAE


class Budget(NamedTuple):
    """The budget for training and evaluation.

    Attributes:
        epochs: the number of training epochs in each cycle.
        batch_size: the number of images in a minibatch.
        learning_rate: the peak of the learning rate in the first cycle.
        num_samples: the number of importance samples for each test image.
        cycles: the number of cycles of the learning rate.
        decay: the factor of the learning rate's peak from cycle to cycle.
        clip_norm: the largest norm of the gradient in the cycles after the first.
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
    """Return the training, validation and test images. Validation and test images are binarised once."""
    mnist = data.load("mnist")
    train, held_out = mnist.x_train[:-VALIDATION], mnist.x_train[-VALIDATION:]
    return train, data.binarise_static(held_out, 1000), data.binarise_static(mnist.x_test, 1000)


def train(
    model: Model,
    budget: Budget,
    seed: int,
    folder: Path,
    objective: Objective | None = None,
    warm_up: bool = True,
) -> dict[str, Any]:
    """Train a model, or continue an interrupted training.

    Args:
        model: the model.
        budget: the budget of this training.
        seed: the seed of minibatches and of random draws.
        folder: the folder of the first cycle's checkpoints. Later cycles have folders beside it.
        objective: the objective of `fit`. None means the ELBO.
        warm_up: whether beta rises from 0 to 1 in the first cycle.

    Returns:
        The best epoch of the last cycle and the minutes of all cycles.
    """
    beta = linear_warm_up(WARM_UP * budget.epochs) if warm_up else constant(1.0)
    histories = [_cycle(model, budget._replace(clip_norm=CLIP_NORM), seed, folder, objective, beta)]
    for cycle in range(1, budget.cycles):
        rate = budget.learning_rate * budget.decay**cycle
        name = f"{folder.name}-cycle-{cycle + 1}-at-{rate:g}-clipped-at-{budget.clip_norm:g}"
        histories.append(
            _cycle(
                model,
                budget._replace(learning_rate=rate),
                seed + 1000 * cycle,
                folder.with_name(name),
                objective,
                constant(1.0),
            )
        )
    return _outcome(histories)


def _cycle(
    model: Model, budget: Budget, seed: int, folder: Path, objective: Objective | None, beta: Schedule
) -> History:
    """Train for one cycle of the learning rate, from the model's current parameters."""
    settings = _settings(budget, objective, beta)
    return fit(model, images()[0], seed=seed, folder=folder, resume=True, **settings)


def _settings(budget: Budget, objective: Objective | None, beta: Schedule) -> dict[str, Any]:
    """Return the settings of a cycle that do not depend on the seed."""
    return {
        "epochs": budget.epochs,
        "batch_size": budget.batch_size,
        "optimizer": partial(torch.optim.Adam, lr=budget.learning_rate, fused=True),
        "scheduler": partial(
            torch.optim.lr_scheduler.OneCycleLR,
            max_lr=budget.learning_rate,
            total_steps=budget.epochs + 1,  # so that the last epoch has a learning rate above zero
            pct_start=WARM_UP,
            div_factor=10,
            cycle_momentum=False,
        ),
        "objective": objective,
        "beta": beta,
        "transform": data.binarise,
        "clip_norm": budget.clip_norm,
        "validation": images()[1],
        "progress": False,
        "compile": "on",
    }


def train_together(job: Job, budget: Budget, seeds: Sequence[int]) -> list[tuple[Model, Entry]]:
    """Train a job under several seeds at once, without checkpoints.

    Returns:
        For each seed the model, and what `train` returns. The minutes are each one's share.

    Raises:
        SystemExit: the training has more than one cycle, or an earlier stage.
    """
    if budget.cycles > 1 or job.first:
        raise SystemExit("--together trains one cycle from the beginning: leave it out.")
    warm_up = job.options.get("warm_up", True)
    beta = linear_warm_up(WARM_UP * budget.epochs) if warm_up else constant(1.0)
    settings = _settings(budget, job.options.get("objective"), beta)
    members = fit_many(partial(_started, job), images()[0], seeds=seeds, **settings)
    return [(cast(Model, member.pair), _outcome([member.history], len(members))) for member in members]


def _outcome(histories: Sequence[History], members: int = 1) -> Entry:
    """Return the best epoch of the last history, and a member's share of the minutes of all of them."""
    minutes = sum(sum(history["seconds"]) for history in histories) / 60 / members
    return {"best_epoch": histories[-1].best_epoch, "training_minutes": round(minutes, 1)}


def _started(job: Job, seed: int) -> Model:
    """Build a job's model, whose pixels start at their frequencies."""
    model = job.build(seed)
    assert isinstance(model.likelihood, Bernoulli)
    model.likelihood.start_at_marginals(images()[0])
    return model


def evaluate(model: Model, num_samples: int) -> MarginalLikelihood:
    """Estimate log p(x) of the test images."""
    return marginal_likelihood(model, images()[2], num_samples=num_samples, compile="on")


class Job(NamedTuple):
    """A model to train and evaluate.

    Attributes:
        key: values that identify the job in the measurements.
        build: a function from the seed to the model.
        options: keyword arguments of `train`.
        first: another job and its budget, whose training comes before this one, or None. The two jobs share
            its checkpoints. That job can have a `first` too.
    """

    key: Entry
    build: Callable[[int], Model]
    options: dict[str, Any]
    first: tuple[Job, Budget] | None = None


def measure(
    measurements: Measurements,
    jobs: Sequence[Job],
    budget: Budget,
    seeds: int,
    threads: int,
    runs: Path,
    together: bool = False,
) -> None:
    """Train and evaluate the jobs that are not in the measurements yet, one seed after another or together.

    Args:
        measurements: the measurements, to which each finished job is added.
        jobs: the jobs.
        budget: the budget of each job.
        seeds: the number of seeds, which count from 0.
        threads: the number of CPU threads.
        runs: the folder of the checkpoints.
        together: whether all seeds of a job train at once, without checkpoints.

    Raises:
        SystemExit: when `budget` has settings of later cycles but only one cycle.
    """
    if budget.cycles == 1 and (budget.decay != 1 or budget.clip_norm != CLIP_NORM):
        raise SystemExit("--decay and --clip-norm need more than one cycle: add --cycles 2 or more.")
    torch.set_num_threads(threads)

    def entry(job: Job, seed: int) -> Entry:
        return job.key | budget._asdict() | {"seed": seed}

    def note(job: Job, seed: int, model: Model, trained: Entry) -> None:
        start = time.perf_counter()
        result = evaluate(model, budget.num_samples)
        minutes = round((time.perf_counter() - start) / 60, 1)
        beside = {"evaluation_minutes": minutes, "threads": threads}
        measurements.add(entry(job, seed) | trained | result.summary() | beside)
        print(
            f"{_name(job)}, seed {seed}, {_length(budget)}: log p(x) = {result.mean:.2f} "
            f"({trained['training_minutes']} + {minutes} minutes)",
            flush=True,
        )

    for job in jobs if together else ():
        left = [seed for seed in range(seeds) if not measurements.done(entry(job, seed))]
        found = train_together(job, budget, left) if left else []
        for seed, (model, trained) in zip(left, found, strict=True):
            note(job, seed, model, trained | {"seeds_at_once": len(left)})
    for seed in range(seeds):
        for job in jobs:
            if not measurements.done(entry(job, seed)):
                model = _started(job, seed)
                note(job, seed, model, _train_stages(model, job, budget, seed, runs))


def _train_stages(model: Model, job: Job, budget: Budget, seed: int, runs: Path) -> Entry:
    """Train by the job's `first`, if there is one, and then by the job. Return the results of both."""
    entry: Entry = {}
    if job.first:
        first, first_budget = job.first
        result = _train_stages(model, first, first_budget, seed, runs)
        entry["first_stage"] = first.key | first_budget._asdict() | result
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
    """Make one row for each model and budget, with mean and standard deviation over the seeds.

    Args:
        entries: measurements with `seed`, `log_likelihood` and the fields of `Budget`.
        names: the names of the values that identify a model.
        baseline: the values of `names` for the model with which others are compared, seed by seed.
        published: published figures and their sources; the keys are values of `names`.
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
    """Describe the length of a training in words."""
    if budget.cycles == 1:
        return f"{budget.epochs} epochs"
    decayed = [f"peak rate times {budget.decay:g} in each later cycle"] if budget.decay != 1 else []
    clipped = [f"later cycles clipped at {budget.clip_norm:g}"] if budget.clip_norm != CLIP_NORM else []
    settings = f" ({', '.join(decayed + clipped)})" if decayed + clipped else ""
    return f"{budget.cycles} cycles of {budget.epochs} epochs{settings}"


def _mean(values: list[float]) -> float | None:
    return round(statistics.mean(values), 3) if values else None


def _deviation(values: list[float]) -> float | None:
    return round(statistics.stdev(values), 3) if len(values) > 1 else None


def markdown(measurements: Measurements, models: str, baseline: str) -> str:
    """Write a Markdown file beside the measurements, with one table for each budget, and return its text.

    Args:
        measurements: the measurements.
        models: the heading of the first column.
        baseline: the name of the model with which the others are compared.

    Raises:
        SystemExit: when there are no measurements yet.
    """
    rows = measurements.update_rows()
    if not rows:
        raise SystemExit("There are no measurements yet: start with the command 'run'.")
    lines: list[str] = []
    by_quality = sorted(
        rows, key=lambda row: (row["epochs"] * row["cycles"], row["protocol"], row["value"])
    )
    for protocol, group in groupby(by_quality, key=lambda row: row["protocol"]):
        lines += [
            f"{protocol[0].upper()}{protocol[1:]}:\n",
            f"| {models} | log p(x) | gain over {baseline} | ELBO | seeds | published | published gain |",
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
