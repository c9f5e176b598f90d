"""The command resume, and the training that the command train starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from pyrovae.cli.parameters import NONE_OWN, Device, Own, Quiet, RunFolder

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
    draw(run, plots.learning_curves(run.history), "learning_curves")
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
