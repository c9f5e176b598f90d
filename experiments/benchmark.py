"""Measure the cost of probabilistic programs: training and evaluation, compared with handwritten PyTorch.

The contestants take turns with short blocks of steps, so that a disturbance on the machine affects all of
them. Each block's time is divided by the time of the handwritten eager loop, and the median of these
ratios is reported. Memory and start-up are measured in one process for each contestant. The floor is the
time of a plain matrix product with the step's number of floating-point operations on this machine, or of a
plain copy of the bytes that Adam moves, whichever is longer. A contestant that is not installed is named
and left out.

    python experiments/benchmark.py run         # on an idle machine, about half an hour
    python experiments/benchmark.py scaling     # ten minutes
    python experiments/benchmark.py report      # the table and the figure
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import benchmark_handwritten as handwritten
import torch
from benchmark_contestants import (
    Problem,
    Step,
    batches_of,
    by_hand,
    comparison,
    numpyro,
    our_model,
    ours,
    problem,
    pythae_model,
    pythae_training,
    pytorch,
    svi,
)
from benchmark_report import figure, table
from benchmark_scaling import exponent, points, training_step
from cyclopts import Parameter
from measurements import Entry, Measurements
from reporting import RESULTS, command_line, some_of
from torch.utils.flop_counter import FlopCounterMode

from pyrovae import fit, plots
from pyrovae.compute import processes
from pyrovae.evaluation import marginal_likelihood
from pyrovae.storage import write_atomically
from pyrovae.training.step import STEPS_BETWEEN

MODELS = ("vae", "pcvae", "m2", "iaf")
SIZES = {"small": (400, 50, 256), "large": (1000, 100, 256)}  # hidden units, latents, batch size
M2_BATCH = 100  # labelled data, and as many unlabelled ones
CONTESTANTS: dict[str, Callable[[Problem], Step]] = {
    "handwritten, eager": partial(pytorch, compiled=False),
    "handwritten, torch.compile": partial(pytorch, compiled=True),
    "pyrovae, eager": partial(ours, compile="off"),
    "pyrovae, compiled": partial(ours, compile="on"),
    "pyro.infer.SVI": svi,
    "NumPyro, jit": numpyro,
}
WHAT = ("training", "comparison", "memory", "epochs", "evaluation")
BASELINE = "handwritten, eager"
ROUNDS, BLOCK_SECONDS, EVALUATION_ROUNDS = 15, 0.4, 3


def problem_of(model: str, size: str) -> Problem:
    """Return the problem of a model and a size by their names."""
    hidden, latent, batch = SIZES[size]
    return problem(model, hidden, latent, M2_BATCH if model == "m2" else batch)


def rows(entries: list[Entry]) -> Iterator[Entry]:
    """Make one row for each quantity, from its newest measurement."""
    newest = {(e["metric"], e["model"], e["size"], e["contestant"], e.get("amount", 0)): e for e in entries}
    for _, entry in sorted(newest.items()):
        yield entry | {
            "model": f"{entry['model']}, {entry['size']}",
            "dataset": "random binary images, 784 pixels",
            "protocol": f"{entry['contestant']}, {entry['threads']} threads",
            "std": None,
            "seeds": [0],
            "published": None,
            "source": None,
        }


MEASUREMENTS = Measurements("benchmark", rows)


def milliseconds(step: Step, seconds: float) -> float:
    """Return the mean time of a step in milliseconds, over a block of about `seconds` seconds."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        step()
        count += 1
    return 1000 * elapsed / count


def in_turns(steps: dict[str, Step], seconds: float = BLOCK_SECONDS) -> dict[str, list[float]]:
    """Measure the contestants in turn, one block each in every round. Return times in milliseconds."""
    for step in steps.values():
        for _ in range(5):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            times[name].append(milliseconds(step, seconds))
    return times


def ratios(times: dict[str, list[float]], name: str, baseline: str = BASELINE) -> float:
    """Return the median over the rounds of a contestant's time over the baseline's."""
    pairs = zip(times[name], times[baseline], strict=True)
    return statistics.median(time / reference for time, reference in pairs)


def machine() -> tuple[float, float]:
    """Measure floating-point operations per second (matrix product) and bytes per second (copy)."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    source = torch.randn(2**26)
    target = torch.empty_like(source)
    multiply = min(milliseconds(lambda: a @ b, 0.3) for _ in range(7))
    copy = min(milliseconds(lambda: target.copy_(source), 0.3) for _ in range(7))
    return 2 * 1024**3 / multiply * 1e3, 2 * 4 * 2**26 / copy * 1e3


def floor_milliseconds(p: Problem) -> float:
    """Return the shortest possible time of a step on this machine, in milliseconds."""
    flops_per_second, bytes_per_second = machine()
    model = by_hand(p)
    with FlopCounterMode(display=False) as counter:
        model(*batches_of(p)()).backward()
    # Adam reads parameter, gradient and two moments, and writes parameter and moments: 7 floats of 4 bytes.
    moved = 4 * 7 * sum(parameter.numel() for parameter in model.parameters())
    return 1e3 * max(counter.get_total_flops() / flops_per_second, moved / bytes_per_second)


app = command_line(__doc__)
Threads = Annotated[int, Parameter(help="Number of CPU threads.")]


@app.command
def run(
    *,
    model: Annotated[list[str] | None, some_of(MODELS)] = None,
    size: Annotated[list[str] | None, some_of(SIZES)] = None,
    what: Annotated[list[str] | None, some_of(WHAT)] = None,
    threads: Threads = 2,
) -> None:
    """Measure training, comparisons, whole epochs, evaluation, memory and start-up; write the results."""
    torch.set_num_threads(threads)
    chosen = what or WHAT
    for s in size or SIZES:
        for m in model or MODELS:
            p = problem_of(m, s)
            if "training" in chosen:
                training(p, m, s, threads)
            if "comparison" in chosen:
                comparisons(p, m, s, threads)
            if "memory" in chosen:
                alone(m, s, threads)
        p = problem_of("vae", s)
        if "epochs" in chosen:
            end_to_end(p, s, threads)
        if "evaluation" in chosen:
            evaluation(p, s, threads)


def note(metric: str, model: str, size: str, contestant: str, threads: int, **values: Any) -> None:
    """Write and print a measurement."""
    MEASUREMENTS.add(
        {"metric": metric, "model": model, "size": size, "contestant": contestant, "threads": threads}
        | values
    )
    shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
    print(f"{model}, {size}: {contestant}: {metric}: {shown}", flush=True)


def training(p: Problem, model: str, size: str, threads: int) -> None:
    """Measure the training step of all contestants."""
    steps = {}
    for name, contestant in CONTESTANTS.items():
        try:
            steps[name] = contestant(p)
        except ImportError as error:
            print(f"{name} is left out: {error}")
    times = in_turns(steps)
    floor = floor_milliseconds(p)
    for name, values in times.items():
        median = statistics.median(values)
        note(
            "training_ratio", model, size, name, threads,
            value=ratios(times, name), milliseconds=median, to_floor=median / floor,
            to_compiled_handwritten=ratios(times, name, "handwritten, torch.compile"),
            to_svi=ratios(times, name, "pyro.infer.SVI"),
        )  # fmt: skip


def comparisons(p: Problem, model: str, size: str, threads: int) -> None:
    """Measure the comparison of a compiled step with the programs, beside the steps between two of them."""
    times = in_turns({"step": ours(p, compile="on"), "comparison": comparison(p)})
    note(
        "comparison_ratio", model, size, "pyrovae, compiled", threads,
        value=ratios(times, "comparison", "step") / STEPS_BETWEEN,
        milliseconds=statistics.median(times["comparison"]),
    )  # fmt: skip


def evaluation(p: Problem, size: str, threads: int, num_samples: int = 5000) -> None:
    """Measure draws scored per second with K = 5,000, from the extra time that more data take."""
    model, hand = our_model(p), by_hand(p)
    assert isinstance(hand, handwritten.VAE)

    def by_chunks(count: int) -> None:
        with torch.no_grad():
            for x in p.x[:count].split(100):
                for _ in range(num_samples // 20):
                    hand.log_weights(x, 20)

    def mine(count: int, compile: str, precision: str = "float32") -> None:
        marginal_likelihood(
            model, p.x[:count], num_samples=num_samples, compile=compile, precision=precision
        )

    contestants: dict[str, Callable[[int], None]] = {
        "handwritten, eager": by_chunks,
        "pyrovae, eager": partial(mine, compile="off"),
        "pyrovae, compiled": partial(mine, compile="on"),
        "pyrovae, compiled, bfloat16": partial(mine, compile="on", precision="bfloat16"),
    }
    try:
        peer = pythae_model(p)
        contestants["pythae, get_nll"] = lambda n: peer.get_nll(p.x[: n // 10], num_samples, 100)
    except ImportError as error:
        print(f"pythae is left out: {error}")
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the k-hat of an untrained model is too high
        for _ in range(EVALUATION_ROUNDS):
            for name, contestant in contestants.items():
                data = 20 if "pythae" in name else 200
                rates[name].append(
                    data * num_samples / (seconds(contestant, 300) - seconds(contestant, 100))
                )
    weights = [w for w in model.likelihood.parameters() if w.dim() == 2]
    flops = 2 * sum(weight.numel() for weight in weights)
    fastest = machine()[0] / flops
    for name, values in rates.items():
        pairs = zip(values, rates.get("pythae, get_nll", []), strict=False)
        note(
            "evaluation_ratio", "vae", size, name, threads,
            value=statistics.median([rate / reference for rate, reference in pairs] or [math.nan]),
            draws_per_second=statistics.median(values), of_floor=statistics.median(values) / fastest,
        )  # fmt: skip


def seconds(action: Callable[[int], Any], amount: int) -> float:
    """Return the time of one call, in seconds."""
    start = time.perf_counter()
    action(amount)
    return time.perf_counter() - start


def end_to_end(p: Problem, size: str, threads: int, epochs: int = 60) -> None:
    """Measure whole epochs, with data loading and bookkeeping, from the extra time of 60 more epochs."""
    with tempfile.TemporaryDirectory() as folder:

        def of(train: Callable[[int], Any]) -> float:
            return statistics.median(seconds(train, epochs + 1) - seconds(train, 1) for _ in range(3))

        def mine(count: int) -> None:
            model = our_model(p)
            fit(model, p.x, epochs=count, batch_size=p.batch_size, compile="on")

        times = {"pyrovae, compiled": of(mine)}
        try:
            times["pythae"] = of(pythae_training(p, folder))
        except ImportError as error:
            print(f"pythae is left out: {error}")
    steps = epochs * len(p.x) / p.batch_size
    for name, took in times.items():
        note(
            "end_to_end_ratio", "vae", size, name, threads,
            value=took / times["pyrovae, compiled"], milliseconds=1000 * took / steps,
        )  # fmt: skip


def alone(model: str, size: str, threads: int) -> None:
    """Measure peak memory and start-up of each contestant, each in a process of its own."""
    for name in CONTESTANTS:
        command = [sys.executable, __file__, "one", name, "--model", model, "--size", size]
        result = subprocess.run([*command, "--threads", str(threads)], capture_output=True, text=True)
        if result.returncode == 0:
            values = json.loads(result.stdout.splitlines()[-1])
            note("peak_memory", model, size, name, threads, **values)


@app.command
def scaling(*, threads: Threads = 2) -> None:
    """Measure how time grows with N, K, M and the number of classes and of processes."""
    torch.set_num_threads(threads)
    found = []
    for what, amount, took in points():
        found.append((what, amount, took))
        kind = "evaluation" if what in ("N", "K") else "training"
        note("scaling", kind, "small", what, threads, amount=amount, value=took)
    for what in ("N", "K"):
        note("scaling_exponent", "evaluation", "small", what, threads, value=exponent(found, what))


@app.command
def together() -> None:
    """Print the seconds of a training step that is shared by the processes that torchrun started."""
    torch.set_num_threads(1)
    with processes.joined():
        took = training_step(problem_of("vae", "large"))
        if processes.is_first():
            print(json.dumps(took))


@app.command
def report() -> None:
    """Write the table and the figure of all measurements, and print the table."""
    made = MEASUREMENTS.update_rows()
    text = table(made)
    write_atomically(RESULTS / "benchmark.md", text.encode())
    print(text)
    print(f"written: {plots.save(figure(made), RESULTS / 'benchmark.png')}")


def peak_megabytes() -> float:
    """Return the peak resident memory of this process, in megabytes."""
    # The maximum of getrusage would include the parent's memory before exec.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


@app.command
def one(
    contestant: Annotated[str, Parameter(help=f"One of: {'; '.join(CONTESTANTS)}.")],
    *,
    model: Annotated[str, Parameter(help=f"One of: {'; '.join(MODELS)}.")] = "vae",
    size: Annotated[str, Parameter(help=f"One of: {'; '.join(SIZES)}.")] = "small",
    threads: Threads = 2,
) -> None:
    """Print memory and start-up of one contestant, measured in this process."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    step = CONTESTANTS[contestant](problem_of(model, size))
    step()
    ready = time.perf_counter() - start
    for _ in range(20):
        step()
    peak = peak_megabytes()
    print(json.dumps({"value": peak, "megabytes": peak, "seconds_to_first_step": ready}))


if __name__ == "__main__":
    app()
