"""The command resume, and what the commands train, sweep and branch start."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from pyrovae.cli.parameters import NONE_OWN, Device, Own, Quiet, RunFolder
from pyrovae.errors import check_counts
from pyrovae.recipes.options import OptionError

if TYPE_CHECKING:
    from pyrovae.recipes import Run


def resume(
    run: RunFolder,
    /,
    *,
    epochs: Annotated[
        int | None, Parameter(help="The total number of epochs. By default unchanged.")
    ] = None,
    patience: Annotated[
        int | None,
        Parameter(help="A new patience. With a larger one a run that has stopped early goes on."),
    ] = None,
    device: Device = "auto",
    compile: Annotated[
        str | None, Parameter(help="Whether steps are compiled: auto, on or off. By default unchanged.")
    ] = None,
    data: Annotated[
        str | None, Parameter(help="Where the run's own data lie now, if they have moved.")
    ] = None,
    quiet: Quiet = False,
    own: Own = NONE_OWN,
) -> None:
    """Continue a run that was interrupted, or train it for more epochs.

    Example: pyrovae resume runs/first --epochs 500
    """
    changes: dict[str, Any] = {"epochs": epochs, "patience": patience, "compile": compile}
    changes = {name: value for name, value in changes.items() if value is not None}
    report(own.open(run, data).resume(device=device, progress=not quiet, **changes))


def report(run: Run) -> None:
    """Print what was read, the outcome and the verdict; draw learning curves and the plate diagram."""
    from pyrovae import plots
    from pyrovae.cli.figures import diagram_of, draw
    from pyrovae.cli.models import save_diagram
    from pyrovae.compute import processes

    if not processes.is_first():
        return
    print(run.images)
    histories = run.histories
    for name, history in histories.items():
        print(history.outcome() if name == run.plan.stages[-1].name else f"{name}: {history.outcome()}")
    if verdict := str(run.verdict or ""):
        print(verdict)
    draw(run, plots.history(run.history, plots.term_labels(run.pair)), "learning_curves")
    save_diagram(diagram_of(run), run.folder / "figures" / "plate_diagram.png")


def train(
    recipe: str,
    values: dict[str, dict[str, Any]],
    out: Path,
    *,
    device: str = "auto",
    download: bool = False,
    tensorboard: bool = False,
    quiet: bool = False,
) -> None:
    """Train a recipe's model by its name.

    Args:
        recipe: a name in `RECIPES`, or `"mine.py:build"`.
        values: the values of options by group: "Model", "Training" and "Data".
        out: the run folder to write.
        device: "auto" or a device of torch.
        download: whether a named data set may be downloaded.
        tensorboard: whether to write scalars for TensorBoard.
        quiet: whether to show no progress bar.
    """
    from pyrovae.recipes import Data, Training
    from pyrovae.recipes import train as train_run

    run = train_run(
        recipe,
        out,
        options=values["Model"],
        training=Training(**values["Training"]),
        data=Data(**values["Data"]),
        device=device,
        download=download,
        tensorboard=tensorboard,
        progress=not quiet,
    )
    report(run)


def sweep(
    recipe: str,
    values: dict[str, dict[str, Any]],
    out: Path,
    *,
    over: Sequence[str] = (),
    seeds: int = 3,
    num_samples: int = 500,
    jobs: int | None = None,
    device: str = "auto",
    download: bool = False,
    quiet: bool = False,
) -> None:
    """Train a recipe's model with each combination of options and seeds; see `pyrovae.recipes.sweep`.

    Args:
        recipe: a name in `RECIPES`, or `"mine.py:build"`.
        values: the values of options that are the same in all runs, by group.
        out: the folder of the sweep.
        over: the options to vary, each as NAME=VALUE,VALUE.
        seeds: the number of seeds. The first is the option seed.
        num_samples: K, the number of importance samples for each test datum.
        jobs: the number of runs at the same time.
        device: "auto" or a device of torch.
        download: whether a named data set may be downloaded.
        quiet: whether to show no progress bar.
    """
    from pyrovae.recipes import Data, Training
    from pyrovae.recipes import sweep as run_sweep

    training = Training(**values["Training"])
    check_counts(seeds=seeds)
    print(
        run_sweep(
            recipe,
            out,
            dict(map(_values_to_try, over)),
            seeds=range(training.seed, training.seed + seeds),
            options=values["Model"],
            training=training,
            data=Data(**values["Data"]),
            num_samples=num_samples,
            jobs=jobs,
            device=device,
            download=download,
            progress=not quiet,
        )
    )
    print(f"written: {out / 'sweep.json'}")


def _values_to_try(text: str) -> tuple[str, list[Any]]:
    """Read NAME=VALUE,VALUE. A value is a number, true or false, or else a word."""
    name, equals, values = text.partition("=")
    if not equals or not all(values.split(",")):
        raise OptionError(f"over is {text!r}; write NAME=VALUE,VALUE, such as latent-dim=2,5,10.")
    return name.replace("-", "_"), [_value(word) for word in values.split(",")]


def _value(word: str) -> Any:
    try:
        return tomllib.loads(f"value = {word}")["value"]
    except tomllib.TOMLDecodeError:
        return word


def branch(
    run: str,
    values: dict[str, dict[str, Any]],
    out: Path,
    *,
    recipe: str | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> None:
    """Begin a new run at the parameters of another one; see `pyrovae.recipes.Run.branch`.

    Args:
        run: the folder of the other run.
        values: the options that change, by group: "Model" and "Training".
        out: the folder of the new run.
        recipe: the recipe of the user's own that the run was trained with.
        device: "auto" or a device of torch.
        quiet: whether to show no progress bar.
    """
    from pyrovae.recipes import Run
    from pyrovae.recipes.own_files import is_own

    own = {name: value for name, value in values["Model"].items() if is_own(value)}
    opened = Run.open(run, own | ({} if recipe is None else {"recipe": recipe}))
    options = values["Model"]
    report(opened.branch(out, options=options, device=device, progress=not quiet, **values["Training"]))
