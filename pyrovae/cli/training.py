"""The command resume, and what the commands train, sweep and branch start."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Group, Parameter

from pyrovae.cli.parameters import NONE_OWN, Device, Own, Quiet, RunFolder
from pyrovae.cli.recipe_commands import OwnData, TensorBoard, TensorBoardImages, annotation_of
from pyrovae.data import DATASETS
from pyrovae.errors import check_counts
from pyrovae.recipes.options import Option, OptionError, shared_options
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
    data: OwnData = None,
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
    """Print what was read, the outcome and the verdict; draw learning curves and the plate diagram."""
    from pyrovae import plots
    from pyrovae.cli.figures import diagram_of, draw
    from pyrovae.cli.models import save_diagram
    from pyrovae.compute import processes

    if not processes.is_first():
        return
    print(run.images)
    for told in filter(None, (_told_of_values(run), _told_of_classes(run))):
        print(told)
    histories = run.histories
    for name, history in histories.items():
        print(history.outcome() if name == run.plan.stages[-1].name else f"{name}: {history.outcome()}")
    if verdict := str(run.verdict or ""):
        print(verdict)
    draw(run, plots.history(run.history, plots.term_labels(run.pair)), "learning_curves")
    save_diagram(diagram_of(run), run.folder / "figures" / "plate_diagram.png")


def _told_of_values(run: Run) -> str:
    """Return a line that says what was done with the values of a user's own data, or nothing."""
    if run.data.data in DATASETS:
        return ""
    done, x, pixels = [], run.images.x_train, run.presentation.pixels
    if run.images.scale > 1:
        done.append(f"they are grey levels and were divided by {run.images.scale}")
    if pixels in ("static", "dynamic") and bool(((x > 0) & (x < 1)).any()):
        when = "once" if pixels == "static" else "anew in each minibatch"
        done.append(f"each is drawn to be 0 or 1, {when}, with its value as the probability")
    if not run.about.in_unit_interval and run.plan.options.get("likelihood") == "gaussian":
        done.append("some lie outside of [0, 1]; the likelihood is Gaussian, a density in their own units")
    return f"values: {'; '.join(done)}" if done else ""


_IMBALANCED = 1.5  # the largest class, as a multiple of an equal share


def _told_of_classes(run: Run) -> str:
    """Return a line that names the option for imbalanced classes under a uniform p(y), or nothing."""
    y = run.images.y_train
    if y is None or run.plan.options.get("learn_class_prior", True):
        return ""
    counts = y[y >= 0].bincount(minlength=run.images.num_classes)
    shares = (100 * counts / counts.sum()).tolist()
    if max(shares) < _IMBALANCED * 100 / len(shares):
        return ""
    return (
        f"classes: they have {min(shares):.0f} % to {max(shares):.0f} % of the data each, and samples show "
        "all alike, since p(y) is uniform; --learn-class-prior learns it"
    )


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
    data: str | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> None:
    """Begin a new run at the parameters of another one; see `pyrovae.recipes.Run.branch`.

    Args:
        run: the folder of the other run.
        values: the options that change, by group: "Model" and "Training".
        out: the folder of the new run.
        recipe: the recipe of the user's own that the run was trained with.
        data: where the run's own data lie now, if they have moved.
        device: "auto" or a device of torch.
        quiet: whether to show no progress bar.
    """
    from pyrovae.recipes import Run
    from pyrovae.recipes.own_files import is_own

    own = {name: value for name, value in values["Model"].items() if is_own(value)}
    opened = Run.open(run, own | ({} if recipe is None else {"recipe": recipe}), data)
    options = values["Model"]
    report(opened.branch(out, options=options, device=device, progress=not quiet, **values["Training"]))
