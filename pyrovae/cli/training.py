"""The command resume, and the training that the command train starts."""

from __future__ import annotations

from dataclasses import field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from pyrovae.cli.parameters import NONE_OWN, Device, Own, Quiet, RunFolder
from pyrovae.cli.recipe_commands import TensorBoard, TensorBoardImages, annotation_of
from pyrovae.recipes.options import Option, shared_options
from pyrovae.recipes.settings import MAY_CHANGE

if TYPE_CHECKING:
    from pyrovae.recipes import Run

NEW_SETTINGS = Group("New settings of the training, by default unchanged", sort_key=5)
_TOLD = {
    "epochs": "The total number of epochs, those that are done included.",
    "patience": "A new patience. With a larger one a run that has stopped early goes on.",
}
"""The help of options that mean something more in a resumed run."""


def _changeable() -> dict[str, Option]:
    """Return by name the settings of a training that a resumed run may change, without defaults."""
    options = {name: option for name, option in shared_options("Training").items() if name in MAY_CHANGE}
    return {n: replace(o, default=None, help=_TOLD.get(n, o.help)) for n, o in options.items()}


Changes: Any = Parameter(name="*")(
    make_dataclass(
        "Changes",
        [
            (name, annotation_of(option, NEW_SETTINGS), field(default=None))
            for name, option in _changeable().items()
        ],
        namespace={"__module__": __name__},  # else it counts as one of Python's own types
        frozen=True,
    )
)
"""New values of settings; None where a setting stays as it is."""


def resume(
    run: RunFolder,
    /,
    *,
    changes: Changes = Changes(),  # noqa: B008  # it cannot be changed
    device: Device = "auto",
    data: Annotated[
        str | None, Parameter(help="Where the run's own data lie now, if they have moved.")
    ] = None,
    tensorboard: TensorBoard = False,
    tensorboard_images: TensorBoardImages = None,
    quiet: Quiet = False,
    own: Own = NONE_OWN,
) -> None:
    """Continue a run that was interrupted, or train it for more epochs.

    Example: pyrovae resume runs/first --epochs 500
    """
    given = {each.name: getattr(changes, each.name) for each in fields(changes)}
    opened = own.open(run, data)
    opened = opened.resume(
        device=device,
        tensorboard=tensorboard,
        tensorboard_images=tensorboard_images,
        progress=not quiet,
        **{name: value for name, value in given.items() if value is not None},
    )
    report(opened)


def report(run: Run) -> None:
    """Print what was read and the outcome of training, and draw learning curves and the plate diagram."""
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
    tensorboard_images: int | None = None,
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
        tensorboard_images: the number of epochs between two writings of images for TensorBoard, or None.
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
        tensorboard_images=tensorboard_images,
        progress=not quiet,
    )
    report(run)
