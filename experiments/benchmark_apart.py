"""Contestants that each run in a process of their own, for `benchmark.py`.

On a GPU this is needed, since a failed capture, or an assertion on the device, spoils the process in which
it happens. One process at a time uses the device. The others start up meanwhile.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import benchmark_handwritten as handwritten
import pyro
import torch
from benchmark_contestants import BASELINE, CONTESTANTS, Problem, by_hand, our_model, problem_of
from benchmark_record import Record

from pyrovae import fit
from pyrovae.evaluation import marginal_likelihood
from pyrovae.training import fit_many

SCRIPT = Path(__file__).with_name("benchmark.py")
LOCK = Path(tempfile.gettempdir()) / "pyrovae-benchmark-device.lock"
AT_ONCE = 3  # processes that start up at the same time, on a GPU's machine
SECONDS = 240  # the longest time of one contestant
MEMBERS = 8
EVALUATED = ("handwritten, eager", "pyrovae, eager", "pyrovae, compiled", "pyrovae, compiled, bfloat16")
TRAINED = ("one seed", f"{MEMBERS} seeds at once")

Found = dict[str, Any]


# The parent


def run_apart(record: Record, models: Sequence[str], sizes: Sequence[str], what: Sequence[str]) -> None:
    """Measure all contestants, each in a process of its own. One that fails is named and left out."""
    for size in sizes:
        for model in models if "training" in what else ():
            # The large models differ in their products alone, which all contestants share.
            if size == "small" or model == "vae":
                _training(record, model, size)
        if "evaluation" in what:
            _compared(record, "evaluation_seconds", size, EVALUATED, EVALUATED[0])
        if "many" in what:
            _compared(record, "many_seeds", size, TRAINED, TRAINED[0])


def _training(record: Record, model: str, size: str) -> None:
    found = _measured(record, "training", model, size, list(CONTESTANTS))

    def ratio(name: str, other: str) -> float:
        return found[name]["milliseconds"] / found[other]["milliseconds"] if other in found else math.nan

    for name, values in found.items():
        record.note(
            "training_ratio", model, size, name,
            value=ratio(name, BASELINE), milliseconds=values["milliseconds"],
            to_compiled_handwritten=ratio(name, "handwritten, torch.compile"),
            to_svi=ratio(name, "pyro.infer.SVI"), to_limit=ratio(name, "handwritten, captured"),
        )  # fmt: skip
        record.note(
            "peak_memory", model, size, name, value=values["megabytes"], megabytes=values["megabytes"],
            seconds_to_first_step=values["seconds_to_first_step"],
        )  # fmt: skip


def _compared(record: Record, metric: str, size: str, names: Sequence[str], baseline: str) -> None:
    """Measure contestants of the VAE, and note their time over the baseline's."""
    found = _measured(record, metric, "vae", size, names)
    for name, values in found.items():
        reference = found.get(baseline, {}).get("milliseconds", math.nan)
        value = values["milliseconds"]
        record.note(metric, "vae", size, name, value=value / reference, milliseconds=value)


def _measured(record: Record, task: str, model: str, size: str, names: Sequence[str]) -> dict[str, Found]:
    """Run a process for each contestant, and return what those that succeeded have measured."""
    with ThreadPoolExecutor(AT_ONCE if record.device != "cpu" else 1) as pool:
        results = [*pool.map(partial(_process, record, task, model, size), names)]
    found = {}
    for name, (values, problem) in zip(names, results, strict=True):
        if problem:
            print(f"{model}, {size}: {name} is left out: {problem}", flush=True)
        else:
            record.card = values.pop("card")
            found[name] = values
    return found


def _process(record: Record, task: str, model: str, size: str, name: str) -> tuple[Found, str]:
    """Run one contestant in a process. Return what it has measured, or why it has not."""
    command = [sys.executable, str(SCRIPT), "alone", name, "--task", task, "--model", model]
    command += ["--size", size, "--device", record.device, "--threads", str(record.threads)]
    jax = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if record.device == "cpu":
        jax["JAX_PLATFORMS"] = "cpu"
    try:
        done = subprocess.run(
            [*command, *(["--quick"] if record.quick else [])],
            capture_output=True, text=True, timeout=SECONDS, env=os.environ | jax,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {}, f"it took longer than {SECONDS} seconds"
    if done.returncode:
        return {}, (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    return json.loads(done.stdout.splitlines()[-1]), ""


# The child


def alone(contestant: str, task: str, model: str, size: str, device: str, quick: bool) -> Found:
    """Measure one contestant in this process.

    Raises:
        SystemExit: it is not installed, or cannot run on the device.
    """
    torch.set_float32_matmul_precision("highest")  # no TF32 for anyone
    torch.backends.cudnn.allow_tf32 = False
    with _device_for_itself(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the k-hat of an untrained model is too high
        try:
            if task == "training":
                found = _step(contestant, problem_of(model, size, device), quick)
            elif task == "many_seeds":
                p = problem_of(model, size, device)
                found = {"milliseconds": _epochs(contestant, p, 3 if quick else 40)}
            else:
                num_data, samples = (200, 50) if quick else (10_000, 5_000)
                p = problem_of(model, size, device, num_data)
                found = {"milliseconds": _evaluation(contestant, p, samples, 1 if quick else 3)}
        except ImportError as error:
            raise SystemExit(str(error)) from None
    card = torch.cuda.get_device_name() if device != "cpu" else None
    return found | {"card": card}


@contextmanager
def _device_for_itself() -> Iterator[None]:
    """Wait until no other contestant uses the device."""
    with open(LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _step(contestant: str, p: Problem, quick: bool) -> Found:
    """Measure a training step: its median time over blocks, and the memory and the time of the start."""
    start = time.perf_counter()
    step = CONTESTANTS[contestant](p)
    step()
    _synchronise(p.device)
    ready = time.perf_counter() - start
    times = _blocks(step, p.device, 0.05 if quick else 0.2, 3 if quick else 9)
    return {
        "milliseconds": statistics.median(times),
        "megabytes": peak_megabytes(p.device),
        "seconds_to_first_step": ready,
    }


def _blocks(step: Callable[[], Any], device: torch.device, seconds: float, rounds: int) -> list[float]:
    """Return the mean times of a step in milliseconds, over blocks of about so many seconds."""
    for _ in range(10):
        step()
    once = _timed(step, device, 5)
    count = max(1, int(1000 * seconds / once))
    return [_timed(step, device, count) for _ in range(rounds)]


def _timed(step: Callable[[], Any], device: torch.device, count: int) -> float:
    _synchronise(device)
    start = time.perf_counter()
    for _ in range(count):
        step()
    _synchronise(device)
    return 1000 * (time.perf_counter() - start) / count


def _synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_megabytes(device: torch.device) -> float:
    """Return the peak memory of torch on a GPU, or else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # The maximum of getrusage would include the parent's memory before exec.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def _evaluation(contestant: str, p: Problem, samples: int, rounds: int) -> float:
    """Measure log p(x) of all data, in milliseconds: the median of calls after a first one."""
    hand, ours = by_hand(p).to(p.device), our_model(p).to(p.device)
    assert isinstance(hand, handwritten.VAE)

    def by_chunks() -> None:
        with torch.no_grad():
            for x in p.x.split(100):
                draws = min(500, samples)
                found = [hand.log_weights(x, draws) for _ in range(samples // draws)]
                torch.cat(found).logsumexp(0).cpu()

    how: dict[str, Any] = {"num_samples": samples, "compile": "off" if "eager" in contestant else "on"}
    if "bfloat16" in contestant:
        how["precision"] = "bfloat16"
    evaluate = (
        by_chunks
        if contestant.startswith("handwritten")
        else partial(marginal_likelihood, ours, p.x, **how)
    )
    times = [_timed(evaluate, p.device, 1) for _ in range(rounds + 1)]
    return statistics.median(times[1:])


def _epochs(contestant: str, p: Problem, epochs: int) -> float:
    """Measure a step of whole epochs in milliseconds, of one seed or of several at once."""
    return epochs_of(p, 1 if contestant == TRAINED[0] else MEMBERS, epochs)


def epochs_of(p: Problem, members: int, epochs: int) -> float:
    """Return the median time of a step in milliseconds, in whole epochs of `fit` or `fit_many`.

    Args:
        p: the problem of the VAE.
        members: the number of seeds that train at once.
        epochs: the number of epochs. The first two are left out.
    """
    pyro.clear_param_store()
    how: dict[str, Any] = {
        "epochs": epochs, "batch_size": p.batch_size, "compile": "on", "progress": False,
        "device": str(p.device),
    }  # fmt: skip
    if members == 1:
        history = fit(our_model(p), p.x, **how)
    else:
        history = fit_many(lambda seed: our_model(p), p.x, seeds=range(members), **how)[0].history
    steps = math.ceil(len(p.x) / p.batch_size)
    return 1000 * statistics.median(history["seconds"][2:]) / steps
