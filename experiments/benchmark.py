"""Measure the cost of probabilistic programs: training and evaluation, compared with handwritten PyTorch.

On the CPU the contestants take turns with short blocks of steps, so that a disturbance on the machine
affects all of them. Each block's time is divided by the time of the handwritten eager loop, and the median
of these ratios is reported. Memory and start-up are measured in one process for each contestant. The floor
is the time of a plain matrix product with the step's number of floating-point operations on this machine,
or of a plain copy of the bytes that Adam moves, whichever is longer.

On a GPU each contestant runs in a process of its own (see `benchmark_apart.py`), without TF32. The limit
is the handwritten step, captured as a whole in one CUDA graph. A contestant that is not installed, or
fails, is named and left out.

    python experiments/benchmark.py run                     # on an idle machine, about 25 minutes
    python experiments/benchmark.py run --what many         # one part of it
    python experiments/benchmark.py scaling                 # ten minutes
    python experiments/benchmark.py report                  # the table and the figure
    python experiments/benchmark.py run --device cuda       # on a GPU, about 6 minutes
    python experiments/benchmark.py report --device cuda
    python experiments/benchmark.py run --quick             # in a minute or two: does all of this run?
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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import benchmark_apart as apart
import benchmark_calls
import benchmark_handwritten as handwritten
import torch
from benchmark_contestants import (
    BASELINE,
    CONTESTANTS,
    MODELS,
    SIZES,
    Problem,
    Step,
    batches_of,
    by_hand,
    comparison,
    our_model,
    ours,
    problem,
    problem_of,
    pythae_model,
    pythae_training,
)
from benchmark_record import Record
from benchmark_report import figure, table
from benchmark_scaling import exponent, points, training_step
from cyclopts import Parameter
from reporting import command_line, some_of
from torch.utils.flop_counter import FlopCounterMode

from pyrovae import fit, plots
from pyrovae.compute import processes
from pyrovae.evaluation import marginal_likelihood
from pyrovae.storage import write_atomically
from pyrovae.training.step import STEPS_BETWEEN

WHAT = ("training", "comparison", "memory", "epochs", "evaluation", "calls", "many")
ON_GPU = ("training", "evaluation", "many")  # memory is measured with the training step
ROUNDS, BLOCK_SECONDS, EVALUATION_ROUNDS = 11, 0.4, 3


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
Device = Annotated[str, Parameter(help="Device of all contestants: cpu or cuda.")]
Out = Annotated[Path | None, Parameter(help="Folder of the results. Default: experiments/results.")]
Quick = Annotated[
    bool, Parameter(help="Measure briefly, each contestant in a process, to see that all of it runs.")
]


@app.command
def run(
    *,
    model: Annotated[list[str] | None, some_of(MODELS)] = None,
    size: Annotated[list[str] | None, some_of(SIZES)] = None,
    what: Annotated[list[str] | None, some_of(WHAT)] = None,
    threads: Threads = 2,
    device: Device = "cpu",
    out: Out = None,
    quick: Quick = False,
) -> None:
    """Measure training, comparisons, whole epochs, evaluation, memory and start-up; write the results."""
    record = Record(device, threads, out, quick)
    if device != "cpu" or quick:
        apart.run_apart(record, model or MODELS, size or [*SIZES][: 1 if quick else None], what or ON_GPU)
        write_table(record)
        return
    chosen = what or WHAT
    for s in size or SIZES:
        for m in model or MODELS:
            p = problem_of(m, s)
            if "training" in chosen:
                training(p, m, s, record)
            if "comparison" in chosen:
                comparisons(p, m, s, record)
            if "memory" in chosen and (s == "small" or m == "vae"):
                memory(m, s, record)
        p = problem_of("vae", s)
        if "epochs" in chosen:
            end_to_end(p, s, record)
        if "evaluation" in chosen:
            evaluation(p, s, record)
    if "calls" in chosen:
        calls(record)
    if "many" in chosen:
        many(record)


def training(p: Problem, model: str, size: str, record: Record) -> None:
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
        record.note(
            "training_ratio", model, size, name,
            value=ratios(times, name), milliseconds=median, to_floor=median / floor,
            to_compiled_handwritten=ratios(times, name, "handwritten, torch.compile"),
            to_svi=ratios(times, name, "pyro.infer.SVI"),
        )  # fmt: skip


def comparisons(p: Problem, model: str, size: str, record: Record) -> None:
    """Measure the comparison of a compiled step with the programs, beside the steps between two of them."""
    times = in_turns({"step": ours(p, compile="on"), "comparison": comparison(p)}, seconds=0.2)
    record.note(
        "comparison_ratio", model, size, "pyrovae, compiled",
        value=ratios(times, "comparison", "step") / STEPS_BETWEEN,
        milliseconds=statistics.median(times["comparison"]),
    )  # fmt: skip


def evaluation(p: Problem, size: str, record: Record, num_samples: int = 5000) -> None:
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
        record.note(
            "evaluation_ratio", "vae", size, name,
            value=statistics.median([rate / reference for rate, reference in pairs] or [math.nan]),
            draws_per_second=statistics.median(values), of_floor=statistics.median(values) / fastest,
        )  # fmt: skip


def seconds(action: Callable[[int], Any], amount: int) -> float:
    """Return the time of one call, in seconds."""
    start = time.perf_counter()
    action(amount)
    return time.perf_counter() - start


def end_to_end(p: Problem, size: str, record: Record, epochs: int = 40) -> None:
    """Measure whole epochs, with data loading and bookkeeping, from the extra time of 40 more epochs."""
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
        record.note(
            "end_to_end_ratio", "vae", size, name,
            value=took / times["pyrovae, compiled"], milliseconds=1000 * took / steps,
        )  # fmt: skip


def memory(model: str, size: str, record: Record) -> None:
    """Measure peak memory and start-up of each contestant, each in a process of its own."""
    for name in CONTESTANTS:
        command = [sys.executable, __file__, "one", name, "--model", model, "--size", size]
        result = subprocess.run(
            [*command, "--threads", str(record.threads)], capture_output=True, text=True
        )
        if result.returncode == 0:
            values = json.loads(result.stdout.splitlines()[-1])
            record.note("peak_memory", model, size, name, **values)


def calls(record: Record) -> None:
    """Measure the fixed cost of a call of each public function, and the slower ways to run copies."""
    for cost in benchmark_calls.calls():
        record.note(
            "call", "vae", "small", cost.name, value=cost.later, milliseconds=cost.later, first=cost.first
        )
    fastest: dict[str, float] = {}
    for what, name, took in benchmark_calls.ways():
        ratio = took / fastest.setdefault(what, took)
        record.note("way", what, "small", name, value=ratio, milliseconds=took)


def many(record: Record, rounds: int = 2) -> None:
    """Measure several seeds at once against one after another, for a tiny and for the small VAE."""
    for size, p, epochs in (
        ("tiny", problem("vae", 64, 5, 100), 40),
        ("small", problem_of("vae", "small"), 6),
    ):
        found: dict[str, list[float]] = {name: [] for name in apart.TRAINED}
        for _ in range(rounds):
            for name, members in zip(apart.TRAINED, (1, apart.MEMBERS), strict=True):
                found[name].append(apart.epochs_of(p, members, epochs))
        one = statistics.median(found[apart.TRAINED[0]])
        for name, times in found.items():
            took = statistics.median(times)
            record.note("many_seeds", "vae", size, name, value=took / one, milliseconds=took)


@app.command
def scaling(*, threads: Threads = 2) -> None:
    """Measure how time grows with N, K, M and the number of classes and of processes."""
    record = Record(threads=threads)
    found = []
    for what, amount, took in points():
        found.append((what, amount, took))
        kind = "evaluation" if what in ("N", "K") else "training"
        record.note("scaling", kind, "small", what, amount=amount, value=took)
    for what in ("N", "K"):
        record.note("scaling_exponent", "evaluation", "small", what, value=exponent(found, what))


@app.command
def together() -> None:
    """Print the seconds of a training step that is shared by the processes that torchrun started."""
    torch.set_num_threads(1)
    with processes.joined():
        took = training_step(problem_of("vae", "large"))
        if processes.is_first():
            print(json.dumps(took))


@app.command
def report(*, device: Device = "cpu", out: Out = None) -> None:
    """Write the table and the figure of all measurements, and print the table."""
    record = Record(device, out=out)
    write_table(record)
    if device == "cpu":
        path = record.measurements.path.with_suffix(".png")
        print(f"written: {plots.save(figure(record.measurements.update_rows()), path)}")


def write_table(record: Record) -> None:
    """Write the table of all measurements on a device, and print it."""
    path, text = record.measurements.path.with_suffix(".md"), table(record.measurements.update_rows())
    write_atomically(path, text.encode())
    print(f"{text}\nwritten: {path}")


Contestant = Annotated[str, Parameter(help="The contestant's name.")]
Model = Annotated[str, Parameter(help=f"One of: {'; '.join(MODELS)}.")]
Size = Annotated[str, Parameter(help=f"One of: {'; '.join(SIZES)}.")]


@app.command
def one(
    contestant: Contestant, *, model: Model = "vae", size: Size = "small", threads: Threads = 2
) -> None:
    """Print memory and start-up of one contestant, measured in this process."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    step = CONTESTANTS[contestant](problem_of(model, size))
    step()
    ready = time.perf_counter() - start
    for _ in range(20):
        step()
    peak = apart.peak_megabytes(torch.device("cpu"))
    print(json.dumps({"value": peak, "megabytes": peak, "seconds_to_first_step": ready}))


@app.command
def alone(
    contestant: Contestant,
    *,
    task: str = "training",
    model: Model = "vae",
    size: Size = "small",
    device: Device = "cpu",
    threads: Threads = 2,
    quick: Quick = False,
) -> None:
    """Print the measurement of one contestant, made in this process."""
    torch.set_num_threads(threads)
    print(json.dumps(apart.alone(contestant, task, model, size, device, quick)))


if __name__ == "__main__":
    app()
