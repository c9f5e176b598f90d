"""Sweeps: one recipe trained with each combination of some options and seeds, and a table of the evidence.

Each combination is a run in a folder of its own, such as `latent_dim=5,seed=0`. A sweep that is run again
goes on: finished runs are not repeated, and interrupted ones are resumed.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pyrovae import small_tables
from pyrovae.compute.progress import progress_bar
from pyrovae.errors import CheckpointError, InputError, NonFiniteError, check_counts, warn
from pyrovae.evaluation.json_files import write_json
from pyrovae.recipes.measuring import evaluate
from pyrovae.recipes.options import OptionError, options_of
from pyrovae.recipes.recipe import load_recipe
from pyrovae.recipes.run import Run, finished, train
from pyrovae.recipes.settings import Data, Training, shared_names
from pyrovae.storage import expanded


@dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
        values: the options that vary between the runs, by name, without the seed.
        seed: the seed.
        folder: the run folder.
    """

    values: Mapping[str, Any]
    seed: int
    folder: Path


@dataclass(frozen=True)
class Setting:
    """One combination of options, with the results of all seeds.

    Attributes:
        values: the options by name.
        log_likelihoods: the mean of log p(x) on the test data, nats per datum, by seed.
        failures: the messages of runs that failed, by seed.
    """

    values: Mapping[str, Any]
    log_likelihoods: Mapping[int, float]
    failures: Mapping[int, str]

    @property
    def mean(self) -> float | None:
        """The mean over the seeds; None if all runs failed."""
        found = self.log_likelihoods.values()
        return statistics.fmean(found) if found else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation over the seeds; None for less than two."""
        found = [*self.log_likelihoods.values()]
        return statistics.stdev(found) if len(found) > 1 else None

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.values.items()) or "defaults"


@dataclass(frozen=True)
class Sweep:
    """The results of a sweep, the best setting first.

    Attributes:
        recipe: the recipe's name.
        settings: the settings.
        members: the runs, each of which `Run.open(member.folder)` opens.
        num_samples: K, the number of importance samples for each datum.
    """

    recipe: str
    settings: tuple[Setting, ...]
    members: tuple[Member, ...] = field(repr=False)
    num_samples: int

    def content(self) -> dict[str, Any]:
        """Return the results as plain values."""
        rows = [
            {
                "values": dict(each.values),
                "mean": each.mean,
                "deviation": each.deviation,
                "log_likelihoods": {str(seed): value for seed, value in each.log_likelihoods.items()},
                "failures": {str(seed): message for seed, message in each.failures.items()},
            }
            for each in self.settings
        ]
        return {"recipe": self.recipe, "num_samples": self.num_samples, "settings": rows}

    def __str__(self) -> str:
        heading, rows = self._table()
        return "\n".join([*small_tables.text(heading, rows, words=(0, len(heading) - 1)), self._note()])

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        return small_tables.html(*self._table(), f"Sweep of {self.recipe}", [self._note()])

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """Return the heads of the columns, and the rows, as text."""
        rows = []
        for each in self.settings:
            mean = "failed" if each.mean is None else f"{each.mean:.3f}"
            deviation = "" if each.deviation is None else f"{each.deviation:.3f}"
            failed = f" ({len(each.failures)} failed)" if each.failures else ""
            rows.append([str(each), mean, deviation, f"{len(each.log_likelihoods)}{failed}"])
        return ["setting", "log p(x)", "sd", "seeds"], rows

    def _note(self) -> str:
        return f"nats per datum on the test data, K = {self.num_samples}; sd over the seeds"


def sweep(
    recipe: str,
    folder: str | Path,
    over: Mapping[str, Sequence[Any]],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    options: Mapping[str, Any] | None = None,
    training: Training | None = None,
    data: Data | None = None,
    num_samples: int = 500,
    jobs: int | None = None,
    device: str = "auto",
    download: bool = False,
    progress: bool = True,
) -> Sweep:
    """Train a recipe with each combination of options and seeds, and estimate the evidence of each run.

    Args:
        recipe: a name in `RECIPES`, or `"mine.py:build"`.
        folder: the folder of the sweep. Each run has a folder in it.
        over: the values to try, by the name of an option of the recipe, of `Training` or of `Data`.
        seeds: the seeds of the training. Each combination is trained with each of them.
        options: the recipe's options that are the same in all runs.
        training: the settings of the training that are the same in all runs.
        data: the data set, and its preparation for the model.
        num_samples: K, the number of importance samples for each test datum.
        jobs: the number of runs that train at the same time, each in a process of its own. None means one
            for each core, and 1 on a GPU.
        device: the device. "auto" means CUDA if it is available, else the CPU.
        download: whether a named data set may be downloaded.
        progress: whether to show a progress bar over the runs.

    Returns:
        The evidence of each setting: mean and standard deviation over the seeds. `sweep.json` in the folder
        has it as well. A run that fails, for example because its parameters become infinite, is reported
        with its message, and the others go on.

    Raises:
        OptionError: an option or a value does not fit. Nothing is trained then.
        InputError: no values or seeds are given, or the folder holds other files.

    Example:
        >>> from pyrovae.recipes import Training, sweep
        >>> small = Training(epochs=1)
        >>> found = sweep(                                                                # doctest: +SKIP
        ...     "vae", "runs/sizes", {"latent_dim": [2, 10]}, seeds=[0, 1], training=small)
        >>> print(found)                                                                  # doctest: +SKIP
    """
    check_counts(num_samples=num_samples)
    folder = expanded(folder)
    shared = {"training": training or Training(), "data": data or Data(), "options": dict(options or {})}
    settings = _settings(recipe, over, shared)
    members = [
        Member(values, seed, folder / _name({**values, "seed": seed}))
        for values in settings
        for seed in _checked_seeds(seeds)
    ]
    _check_folder(folder, members)
    tasks = [
        _Task(recipe, member.folder, *_of_member(member, shared), num_samples, device, download)
        for member in members
    ]
    found = {task.folder: value for task in tasks if (value := _score_of_finished(task)) is not None}
    left = [task for task in tasks if task.folder not in found]
    new, failed = _run_all(left, jobs, device, progress, len(found))
    found |= new
    results = [
        Setting(
            values,
            {m.seed: found[m.folder] for m in members if m.values == values and m.folder in found},
            {m.seed: failed[m.folder] for m in members if m.values == values and m.folder in failed},
        )
        for values in settings
    ]
    ranked = sorted(results, key=lambda each: -float("inf") if each.mean is None else each.mean)
    result = Sweep(recipe, tuple(reversed(ranked)), tuple(members), num_samples)
    write_json(folder / "sweep.json", result.content())
    return result


@dataclass(frozen=True)
class _Task:
    """What a process needs to train one run, and to score it."""

    recipe: str
    folder: Path
    options: Mapping[str, Any]
    training: Training
    data: Data
    num_samples: int
    device: str
    download: bool

    def text(self) -> str:
        """Return the task as JSON, from which `_task` makes it again."""
        return json.dumps(
            {**asdict(self), "given": [*self.training.given, *self.data.given]}, default=_plain
        )


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else str(value)


def _task(text: str) -> _Task:
    values = json.loads(text)
    given = values.pop("given")
    for name, cls in (("training", Training), ("data", Data)):
        # Only what was given is passed on, since recipes have defaults of their own for the rest.
        values[name] = cls(
            **{n: v for n, v in values[name].items() if n in given and n in shared_names(cls)}
        )
    return _Task(**values | {"folder": Path(values["folder"])})


def _settings(
    recipe: str, over: Mapping[str, Sequence[Any]], shared: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return all combinations of the values, checked and converted to the options' types."""
    if "seed" in over:
        raise OptionError("over holds seed, which every sweep varies: give the seeds by seeds=[0, 1, 2].")
    for name, values in over.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise OptionError(f"over holds {name} = {values!r}; give a list of values to try.")
    build, settings = load_recipe(recipe), []
    for values in itertools.product(*over.values()):
        setting = dict(zip(over, values, strict=True))
        known = options_of(build, shared["options"] | setting)
        for name in setting:
            if name not in known:
                raise OptionError(f"{recipe} has no option {name}: choose from {', '.join(sorted(known))}.")
            if name in shared["options"]:
                raise OptionError(f"{name} is in options and in over: leave it out of one of them.")
        for name, value in shared["options"].items():
            if name not in known:
                raise OptionError(f"{recipe} has no option {name} with {setting}: leave it out.")
            known[name].checked(value)
        settings.append({name: known[name].checked(value) for name, value in setting.items()})
    return settings


def _checked_seeds(seeds: Sequence[int]) -> list[int]:
    if not seeds or len({*seeds}) < len(seeds):
        raise InputError(f"seeds is {[*seeds]}; give at least one seed, and each only once.")
    return [*seeds]


def _check_folder(folder: Path, members: Sequence[Member]) -> None:
    """Refuse a folder with other files than those of this sweep, which a table would be mixed up with."""
    if not folder.exists():
        return
    known = {member.folder.name for member in members} | {"sweep.json"}
    others = [path.name for path in folder.iterdir() if path.name not in known and "=" not in path.name]
    if others:
        raise InputError(f"{folder} holds {min(others)!r}, which is not of a sweep: name another folder.")


def _of_member(member: Member, shared: Mapping[str, Any]) -> tuple[dict[str, Any], Training, Data]:
    """Return the options and settings of one run."""

    def of(cls: type) -> dict[str, Any]:
        return {n: v for n, v in member.values.items() if n in shared_names(cls)}

    training, data = of(Training), of(Data)
    own = {n: v for n, v in member.values.items() if n not in training and n not in data}
    return (
        shared["options"] | own,
        shared["training"].changed(**training, seed=member.seed),
        shared["data"].changed(**data) if data else shared["data"],
    )


def _run_all(
    tasks: Sequence[_Task], jobs: int | None, device: str, progress: bool, finished: int
) -> tuple[dict[Path, float], dict[Path, str]]:
    """Run all tasks. Return the log likelihoods, and the messages of those that failed, by folder.

    The progress bar counts the runs that are finished already, too.
    """
    from pyrovae.compute.devices import resolve_device

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = (1 if resolve_device(device).type != "cpu" else cores) if jobs is None else jobs
    check_counts(jobs=at_once)
    at_once = max(1, min(at_once, len(tasks)))
    found: dict[Path, float] = {}
    failed: dict[Path, str] = {}
    threads = max(1, cores // at_once)
    with progress_bar(progress, finished + len(tasks), "run", finished) as bar:
        for task, outcome in _outcomes(tasks, at_once, threads):
            if isinstance(outcome, float):
                found[task.folder] = outcome
            else:
                failed[task.folder] = outcome
                warn(f"{task.folder} failed: {outcome}")
            bar.update()
    return found, failed


def _outcomes(tasks: Sequence[_Task], at_once: int, threads: int) -> Iterator[tuple[_Task, float | str]]:
    """Yield each task with its log likelihood, or with the message of its failure, when it has ended."""
    if at_once == 1:
        yield from ((task, _train_and_score(task)) for task in tasks)
        return
    with ThreadPoolExecutor(at_once) as pool:
        futures = {pool.submit(_in_a_process, task, threads): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _in_a_process(task: _Task, threads: int) -> float | str:
    """Train and score a run in a process of its own, which does not import the caller's script again."""
    done = subprocess.run(
        [sys.executable, "-c", f"from pyrovae.recipes.sweep import work; work({threads})"],
        input=task.text(),
        capture_output=True,
        text=True,
    )
    lines = (done.stdout if done.returncode == 0 else done.stderr).splitlines()
    if done.returncode != 0:
        return f"its process ended with status {done.returncode}: {lines[-1] if lines else 'no message'}"
    outcome: float | str = json.loads(lines[-1])
    return outcome


def work(threads: int) -> None:
    """Train and score the run that standard input describes, and print the outcome as JSON."""
    import torch

    torch.set_num_threads(threads)
    print(json.dumps(_train_and_score(_task(sys.stdin.read()))))


def _train_and_score(task: _Task) -> float | str:
    """Train one run, or go on with it, and score it. Return its log likelihood, or why it failed."""
    try:
        run = train(
            task.recipe,
            task.folder,
            options=task.options,
            training=task.training,
            data=task.data,
            device=task.device,
            download=task.download,
            progress=False,
            resume=True,
        )
        if (score := _score_of(run, task.num_samples)) is not None:
            return score
        result = evaluate(run, task.num_samples, device=task.device, progress=False)
        result.write()
        return float(result.metrics["log_likelihood"])
    except (InputError, CheckpointError, NonFiniteError) as error:
        return str(error)


def _score_of_finished(task: _Task) -> float | None:
    """Return the log likelihood of a run that is trained and scored, which is left as it is; else None."""
    run = finished(task.recipe, task.folder, task.options, task.training, task.data)
    try:
        return None if run is None else _score_of(run, task.num_samples)
    except InputError:  # damaged metrics
        return None


def _score_of(run: Run, num_samples: int) -> float | None:
    """Return the log likelihood that the run was scored with on all test data; None if it was not."""
    metrics = run.metrics
    if metrics is None or metrics["num_samples"] != num_samples or "limit" in metrics:
        return None
    return float(metrics["log_likelihood"])


def _name(values: Mapping[str, Any]) -> str:
    """Return the name of a run's folder, such as `latent_dim=5,seed=0`."""
    plain = {name: re.sub(r"[^\w.+-]+", "-", str(value)) for name, value in values.items()}
    return ",".join(f"{name}={value}" for name, value in plain.items())
