"""The protocol that the experiments on priors, posteriors and objectives share.

MNIST, 50,000 training images binarised afresh at each presentation, 10,000 for validation, and the 10,000
test images binarised once. Adam on minibatches of 100 (its learning rate falls to zero along half a
cosine); beta rises from 0 to 1 over the first tenth of the epochs; the epoch with the best bound on the
validation images is kept. log p(x) of the test images by 5,000 importance samples each.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measurements import Entry, Measurements
from torch import Tensor, nn

from pyrovae import data, fit
from pyrovae.checkpoints import write_atomically
from pyrovae.evaluation import MarginalLikelihood, marginal_likelihood
from pyrovae.objectives import Objective
from pyrovae.schedules import constant, linear_warm_up

X_SHAPE = (1, 28, 28)
VALIDATION = 10_000
BATCH_SIZE = 100
# With the standard prior, after 30 epochs: -93.9 nats on validation, with 1e-3 -96.1. But with 300 epochs
# 3e-3 becomes unstable after the first 60.
LEARNING_RATE = 3e-3


def images(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Training, validation and test images; the latter two binarised by one draw."""
    mnist = data.load("mnist")
    train, held_out = mnist.x_train[:-VALIDATION], mnist.x_train[-VALIDATION:]
    return train, data.binarise_static(held_out, 1000), data.binarise_static(mnist.x_test, 1000)


def train(
    model: nn.Module,
    epochs: int,
    seed: int,
    folder: Path,
    objective: Objective | None = None,
    learning_rate: float = LEARNING_RATE,
    warm_up: bool = True,
) -> dict[str, Any]:
    """Train, or go on with a training that was interrupted; says how it went."""
    x, held_out, _ = images(seed)
    model.likelihood.start_at_marginals(x)  # type: ignore[operator, union-attr]
    history = fit(
        model.model,  # type: ignore[arg-type]
        model.guide,  # type: ignore[arg-type]
        x,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        optimizer=partial(torch.optim.Adam, lr=learning_rate, fused=True),
        scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=epochs),
        objective=objective,
        beta=linear_warm_up(epochs / 10) if warm_up else constant(1.0),
        transform=data.binarise,
        validation=held_out,
        seed=seed,
        folder=folder,
        resume=True,
        progress=False,
        compile="on",
    )
    return {
        "epochs": epochs,
        "best_epoch": history.best_epoch,
        "training_minutes": round(sum(history["seconds"]) / 60, 1),
    }


def evaluate(model: nn.Module, num_samples: int = 5000, limit: int | None = None) -> MarginalLikelihood:
    """log p(x) of the test images."""
    x_test = images(0)[2][:limit]
    return marginal_likelihood(model.model, model.guide, x_test, num_samples=num_samples)  # type: ignore[arg-type]


class Job(NamedTuple):
    """One model to measure.

    Attributes:
        key: what tells it apart.
        build: seed -> model.
        options: of `train`.
    """

    key: Entry
    build: Callable[[int], nn.Module]
    options: dict[str, Any]


def measure(
    measurements: Measurements,
    jobs: Sequence[Job],
    epochs: int,
    seeds: int,
    threads: int,
    runs: Path,
    learning_rate: float = LEARNING_RATE,
) -> None:
    """Train and evaluate what is still to be done, one seed after another."""
    torch.set_num_threads(threads)
    for seed in range(seeds):
        for key, build, options in jobs:
            entry = key | {"epochs": epochs, "learning_rate": learning_rate, "seed": seed}
            if measurements.done(entry):
                continue
            name = " ".join(str(value) for value in key.values())
            model = build(seed)
            folder = runs / re.sub(r"\W+", "-", f"{name} {epochs} {learning_rate} {seed}")
            entry |= train(model, epochs, seed, folder, learning_rate=learning_rate, **options)
            start = time.perf_counter()
            result = evaluate(model)
            entry |= result.summary()
            minutes = round((time.perf_counter() - start) / 60, 1)
            measurements.add(entry | {"evaluation_minutes": minutes, "threads": threads})
            print(
                f"{name}, seed {seed}, {epochs} epochs: log p(x) = {result.mean:.2f} "
                f"({entry['training_minutes']} + {minutes} minutes)",
                flush=True,
            )


def rows(
    entries: list[Entry], names: Iterable[str], published: dict[tuple[Any, ...], tuple[float, str]]
) -> Iterator[Entry]:
    """One row for each model and budget: mean and standard deviation over seeds.

    Args:
        entries: measurements, with `epochs`, `learning_rate`, `seed` and `log_likelihood`.
        names: what tells models apart.
        published: figures and their sources, by the values of `names`.
    """
    names = list(names)
    groups: dict[tuple[Any, ...], dict[int, Entry]] = {}
    for entry in entries:
        key = (*(entry[name] for name in names), entry["epochs"], entry["learning_rate"])
        groups.setdefault(key, {})[entry["seed"]] = entry
    for (*model, epochs, learning_rate), by_seed in sorted(groups.items(), key=str):
        values = [by_seed[seed]["log_likelihood"] for seed in sorted(by_seed)]
        bounds = [by_seed[seed]["elbo"] for seed in sorted(by_seed)]
        figure, source = published.get(tuple(model), (None, None))
        yield dict(zip(names, model, strict=True)) | {
            "model": ", ".join(str(part) for part in model),
            "dataset": "mnist",
            "protocol": f"dynamic binarisation, 50,000 training images, {epochs} epochs, "
            f"learning rate {learning_rate:g}, K = 5,000",
            "metric": "log_likelihood",
            "value": round(statistics.mean(values), 3),
            "std": round(statistics.stdev(values), 3) if len(values) > 1 else None,
            "elbo": round(statistics.mean(bounds), 3),
            "monte_carlo_std_error": round(max(e["mean_std_error"] for e in by_seed.values()), 4),
            "khat_above_limit": max(e["khat_above_limit"] for e in by_seed.values()),
            "seeds": sorted(by_seed),
            "epochs": epochs,
            "learning_rate": learning_rate,
            "published": figure,
            "source": source,
        }


def markdown(measurements: Measurements) -> str:
    """The rows as a table, written beside them."""
    lines = [
        "| model | epochs | learning rate | log p(x) | ELBO | seeds | published |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(measurements.content["rows"], key=lambda row: (row["epochs"], row["value"])):
        spread = f" ± {row['std']:.2f}" if row["std"] is not None else ""
        published = f"{row['published']:.2f}, {row['source']}" if row["published"] else ""
        lines.append(
            f"| {row['model']} | {row['epochs']} | {row['learning_rate']:g} | {row['value']:.2f}{spread} | "
            f"{row['elbo']:.2f} | "
            f"{len(row['seeds'])} | {published} |"
        )
    text = "\n".join(lines) + "\n"
    write_atomically(measurements.path.with_suffix(".md"), text.encode())
    return text
