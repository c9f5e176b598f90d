"""Measure how time grows, for `benchmark.py`.

Evaluation: with the number of data N and of importance samples K. Training: with the number of latent
dimensions M, of classes, and of processes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_contestants import Problem, our_model, ours, problem

from pyrovae.evaluation import marginal_likelihood

REPEATS = 3
HIDDEN, BATCH = 400, 256

Point = tuple[str, int, float]  # the name of the growing size, its value, and the time in seconds


def points() -> Iterator[Point]:
    """Measure evaluations (not compiled) and training steps (compiled) of growing size."""
    yield from evaluations()
    for latent in (10, 50, 200, 800):
        yield "M", latent, training_step(problem("vae", HIDDEN, latent, BATCH))
    for classes in (2, 5, 10, 20, 40):
        yield "classes", classes, training_step(problem("m2", HIDDEN, 50, 100, classes))
    for processes in (1, 2):
        yield "processes", processes, step_together(processes)


def evaluations() -> Iterator[Point]:
    """Measure evaluations with a growing number of data N and of importance samples K."""
    p = problem("vae", HIDDEN, 50, BATCH)
    model: Any = our_model(p)

    def seconds(data: int, samples: int) -> float:
        x = p.x[:data]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the k-hat of an untrained model is too high
            return median_of(lambda: marginal_likelihood(model, x, num_samples=samples))

    seconds(100, 100)
    for data in (100, 200, 400, 800, 1600):
        yield "N", data, seconds(data, 1000)
    for samples in (1000, 2000, 4000, 8000, 16000):
        yield "K", samples, seconds(200, samples)


def exponent(found: list[Point], what: str) -> float:
    """Return the slope of log time over log size, for the size named `what`."""
    amounts, seconds = zip(*((n, s) for name, n, s in found if name == what), strict=True)
    return float(np.polyfit(np.log(amounts), np.log(seconds), 1)[0])


def training_step(p: Problem) -> float:
    """Measure the time of a compiled training step, in seconds."""
    step = ours(p, "on")
    for _ in range(10):
        step()
    return block_median(step)


def step_together(count: int) -> float:
    """Measure a training step that `count` processes of one thread each share. torchrun starts them."""
    script = Path(__file__).with_name("benchmark.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    done = subprocess.run([*torchrun, str(script), "together"], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def median_of(action: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Return the median time of several calls, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def block_median(step: Callable[[], Any], steps: int = 20) -> float:
    """Return the time of one step, in seconds: the median over blocks of `steps` steps."""

    def block() -> None:
        for _ in range(steps):
            step()

    return median_of(block) / steps
