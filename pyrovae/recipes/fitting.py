"""The training of a plan, stage after stage, with or without a run folder."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Subset

from pyrovae import data as data_sets
from pyrovae.compute import processes
from pyrovae.compute.devices import resolve_device
from pyrovae.data import in_turn
from pyrovae.errors import InputError, NonFiniteError
from pyrovae.evaluation.json_files import write_json
from pyrovae.generation import TensorBoardImages
from pyrovae.recipes.about import About
from pyrovae.recipes.beside import NOTHING_BESIDE, Beside
from pyrovae.recipes.course import Call, ends_of, time_of
from pyrovae.recipes.own_files import digest_of, is_own
from pyrovae.recipes.plan import Plan, Stage
from pyrovae.recipes.presentation import Presentation
from pyrovae.recipes.run_data import Known
from pyrovae.recipes.settings import MAY_CHANGE, Data, Training, plain_values
from pyrovae.recipes.small_noise import warn_of_small_noise
from pyrovae.recipes.verdict import MOST_DATA, Verdict, explained, verdict_of
from pyrovae.runs import Configuration, RunFolder
from pyrovae.storage import expanded
from pyrovae.training import Data as Source
from pyrovae.training import History, few, fit
from pyrovae.training.checkpoints import checkpoints_in, new_run
from pyrovae.training.sources import FEW, spread_rows
from pyrovae.training.state import digest_of_pair

MOST_AT_START = 2**27
"""The largest number of values that are read at once from data outside of memory to start training."""

IMAGES = 8
"""The number of samples, and of reconstructions, that are written for TensorBoard at once."""


@dataclass
class Fitted:
    """A trained plan.

    Attributes:
        plan: the plan, whose pairs are trained.
        histories: the history of each stage by its name, in order.
        presentation: the preparation of the data for the model.
        beside: what the training has beside the data and their classes.
        verdict: what the training has come to, with a warning if the latents carry almost nothing. It is
            empty if it was not asked for.
    """

    plan: Plan
    presentation: Presentation
    histories: dict[str, History] = field(default_factory=dict)
    beside: Beside = NOTHING_BESIDE
    verdict: Verdict = field(default_factory=Verdict)

    @property
    def pair(self) -> Any:
        """The pair to evaluate, to sample and to draw."""
        return self.plan.pair

    @property
    def history(self) -> History:
        """The history of the last stage."""
        return self.histories[self.plan.stages[-1].name]

    def __str__(self) -> str:
        outcomes = [f"{name:<9}: {history.outcome()}" for name, history in self.histories.items()]
        return "\n".join([str(self.plan), *outcomes, str(self.verdict)]).rstrip()

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the plan, the history of each stage, and the verdict."""
        tables = [
            f"<b>{html.escape(name)}</b>{each._repr_html_()}" for name, each in self.histories.items()
        ]
        plan, verdict = (f"<pre>{html.escape(str(part))}</pre>" for part in (self.plan, self.verdict))
        return "".join([plan, *tables, verdict])


@dataclass(frozen=True)
class Writing:
    """The device of a training, its run folder and its output.

    Args:
        folder: the run folder, or None.
        device: "auto" or a device of torch.
        resume: whether to continue the run in the folder.
        tensorboard: whether to write scalars for TensorBoard.
        tensorboard_images: the number of epochs between two writings of images for TensorBoard, or None.
        progress: whether to show progress bars.
        data_set: what the run remembers of its data set. None for data that are given in Python.
        begun_from: the checkpoint of another run at whose parameters this one begins. Empty if none.
        verdict: whether to measure at the end what the training has come to.
    """

    folder: str | Path | None = None
    device: str = "auto"
    resume: bool = False
    tensorboard: bool = False
    tensorboard_images: int | None = None
    progress: bool = False
    data_set: Known | None = None
    begun_from: str = ""
    verdict: bool = True

    def __post_init__(self) -> None:
        if self.folder is not None:
            object.__setattr__(self, "folder", expanded(self.folder))

    def scalars_in(self, folder: Path) -> Path | None:
        """Return the folder of TensorBoard's scalars. A resumed run that has some goes on with them."""
        place = folder / "tensorboard"
        asked = self.tensorboard or self.tensorboard_images is not None
        return place if asked or (self.resume and place.is_dir()) else None


@dataclass(frozen=True)
class Split:
    """The training data of a stage.

    Attributes:
        x: the data to learn, `(N, *x_shape)` or a dataset.
        y: their classes `(N,)`, -1 for unlabelled data, or None.
        validation: the data that choose the best epoch, or None.
        y_validation: their classes, or None.
        beside: what belongs to the data to learn.
        beside_validation: what belongs to the validation data.
    """

    x: Source
    y: Tensor | None
    validation: Source | None
    y_validation: Tensor | None = None
    beside: Beside = NOTHING_BESIDE
    beside_validation: Beside = NOTHING_BESIDE


def fit_plan(
    plan: Plan,
    x: Source,
    y: Tensor | None,
    training: Training,
    data: Data,
    writing: Writing,
    beside: Beside = NOTHING_BESIDE,
) -> Fitted:
    """Train the stages of a plan one after another; see `Plan.fit`."""
    resolve_device(writing.device)
    training, data = training.over(plan.defaults), data.over(plan.defaults)
    _check(plan, y, training, data, writing)
    if beside:
        _check_beside(plan, len(cast(Any, x)), data, writing, beside)
    presentation = Presentation.of(plan.pixels, data)
    if writing.folder is not None and writing.data_set is None:
        writing = replace(writing, data_set=Known.of_given(x, y))  # as they are given, not prepared
    x = _prepared(x, presentation)
    fitted = Fitted(plan, presentation, beside=beside)
    if writing.folder is None:
        _fit_stages(fitted, x, y, training, data, writing, {}, [training.epochs])
        return fitted
    folder = RunFolder(Path(writing.folder))
    folder.check_free(writing.resume)
    processes.wait()  # until all processes have checked, since the first one writes there next
    configuration = _configuration_of(plan, x, y, training, data, writing)
    with _going_on_explained(folder), folder.prepared(configuration, writing.resume):
        how = (training, data, writing, identity_of(plan, configuration), configuration.ends)
        _fit_stages(fitted, x, y, *how)
    return fitted


@contextmanager
def _going_on_explained(folder: RunFolder) -> Iterator[None]:
    """Within the block, let a training that breaks down after its first epoch say how it can go on."""
    try:
        yield
    except NonFiniteError as error:
        if not folder.checkpoints():
            raise  # nothing is left behind, and the same command can be given again
        raise NonFiniteError(
            f"{error}\n{folder.path} keeps the epochs before. Go on from them with a lower learning rate: "
            f"pyrovae resume {folder.path} --learning-rate RATE (in Python Run.open({str(folder.path)!r})"
            ".resume(learning_rate=RATE)), or train anew in another folder."
        ) from error


def _fit_stages(
    fitted: Fitted,
    x: Source,
    y: Tensor | None,
    training: Training,
    data: Data,
    writing: Writing,
    identity: dict[str, Any],
    ends: Sequence[int],
) -> None:
    """Train the stages. The checkpoints of each stage say which parameters of earlier ones are beneath."""
    for stage in fitted.plan.stages:
        how = (training, data, writing, identity, ends)
        fitted.histories[stage.name] = _fit_stage(stage, x, y, fitted, *how)
        identity = identity | {beneath(stage): digest_of_pair(stage.pair)}
    warn_of_small_noise(fitted.pair, x if isinstance(x, Tensor) else few(x))
    if not writing.verdict:
        return
    fitted.verdict = _verdict(fitted, x, y, settings_of(fitted.plan.stages[-1], training), data)
    if writing.folder is not None and processes.is_first():
        _write_verdict(fitted.verdict, Path(writing.folder))


def _verdict(fitted: Fitted, x: Source, y: Tensor | None, training: Training, data: Data) -> Verdict:
    """Measure what the training has come to, on validation data if some are held out."""
    stage, split = fitted.plan.stages[-1], split_off(x, y, training, data, fitted.beside)
    held_out = split.validation is not None
    part, classes = (split.validation, split.y_validation) if held_out else (split.x, split.y)
    beside = split.beside_validation if held_out else split.beside
    rows = spread_rows(len(cast(Any, part)), MOST_DATA)
    seen = few(cast(Source, part), MOST_DATA)
    try:
        labels = None if classes is None else classes[rows]
        given = _given_to(stage, seen, labels, Beside(beside.rows(rows).given))
        seen = fitted.presentation.of_prepared(seen)
        how: Any = {"given": given, "held_out": held_out, "training": training}
        has_option = "objective" in fitted.plan.options or not fitted.plan.recipe
        how["takes_objective"] = has_option and stage.supervised is None
        if stage.classes or stage.given:
            how["beside"] = "the class" if stage.classes else f"what is given, {', '.join(given or {})}"
        return verdict_of(fitted.pair, seen, **how)
    except Exception as error:  # a diagnosis must not cost the training
        return explained(error)


def _write_verdict(verdict: Verdict, folder: Path) -> None:
    """Write a verdict beside the checkpoints of a run, with the name of the checkpoint that it is of."""
    newest = checkpoints_in(folder / "checkpoints")[0].path.name
    content = vars(verdict) | {"warnings": [*verdict.warnings], "checkpoint": newest}
    write_json(folder / "verdict.json", content)


def identity_of(plan: Plan, configuration: Configuration) -> dict[str, Any]:
    """Return what the checkpoints of a run must agree with: its configuration but for what may change."""
    # The facts about the values have chosen the likelihood, which is among the options.
    free = {*MAY_CHANGE, *plan.weights, "in_unit_interval", "column_names"}
    identity = configuration.identity(free)
    # The file of a user's own component may have moved. If its content has changed, a warning says so.
    return {n: f"your own {v.split(':')[-1]}" if is_own(v) else v for n, v in identity.items()}


def beneath(stage: Stage) -> str:
    """Return the name under which the checkpoints of later stages know a stage's parameters."""
    return f"parameters of stage {stage.name}"


def _configuration_of(
    plan: Plan, x: Source, y: Tensor | None, training: Training, data: Data, writing: Writing
) -> Configuration:
    """Make the configuration of a run folder, as plain values. A resumed run keeps its name."""
    about = plan.about or About.of(x, y)
    folder = RunFolder(Path(cast(str, writing.folder)))
    known = cast(Known, writing.data_set)
    former = folder.configuration if writing.resume and folder.config_path.is_file() else None
    names = [plan.recipe, *(value for value in plan.options.values() if is_own(value))]
    return Configuration(
        plan.recipe,
        dict(plan.options),
        plain_values(training),
        plain_values(data),
        {**vars(about), "x_shape": list(about.x_shape)},
        {name: digest_of(name) for name in names if is_own(name)},
        known.values,
        [*known.class_names],
        known.scale,
        new_run() if former is None else former.run,
        known.from_python,
        writing.begun_from if former is None else former.begun_from,
        ends_of(former, training, folder.path),
    )


def _prepared(x: Source, presentation: Presentation) -> Source:
    """Prepare the training data once, if they are in memory."""
    if presentation.shift:  # data that cannot be shifted so far are refused before training
        first = (x[:1] if isinstance(x, Tensor) else few(x, 1)).cpu()
        data_sets.random_shift(first, presentation.shift, torch.Generator())
    if isinstance(x, Tensor):
        presentation.check_training(x)
        return presentation.for_training(x)
    if presentation.pixels in ("static", "levels"):
        raise InputError(
            f"the pixels are '{presentation.pixels}', so all data are prepared before training, but a "
            f"{type(x).__name__} is read item by item: prepare the items in the dataset, or choose another "
            "likelihood, or binarise='dynamic' or 'none'."
        )
    return x


def split_off(
    x: Source, y: Tensor | None, training: Training, data: Data, beside: Beside = NOTHING_BESIDE
) -> Split:
    """Split the training data of a stage into data to learn and validation data.

    Args:
        x: all training data, `(N, *x_shape)` or a dataset.
        y: their classes `(N,)`, or None. If all are known, each class keeps its share.
        training: the settings of the stage.
        data: the settings of the data, which have the seed of the split.
        beside: what belongs to all training data.
    """
    rows = _rows_of(len(cast(Any, x)), y, training, data)
    if rows is None:
        return Split(x, y, None, beside=beside)
    kept, others = rows
    of_kept, of_others = (None, None) if y is None else (y[kept], y[others])
    parts = _taken(x, kept), of_kept, _taken(x, others), of_others
    return Split(*parts, beside.rows(kept), beside.rows(others))


def _taken(x: Source, indices: Tensor) -> Source:
    """Return the data with these indices. For a dataset this is a view, which reads them on use."""
    return x[indices] if isinstance(x, Tensor) else Subset(cast(Any, x), indices.tolist())


def _rows_of(
    num_data: int, y: Tensor | None, training: Training, data: Data
) -> tuple[Tensor, Tensor] | None:
    """Return the rows to learn and those to validate on, or None if no data are held out."""
    if not training.validation_fraction:
        return None
    classes = y if y is not None and bool((y >= 0).all()) else None
    return data_sets.stratified_split(classes, training.validation_fraction, data.split_seed, n=num_data)


def hidden_labels(y: Tensor | None, training: Training, data: Data) -> Tensor | None:
    """Keep the labels that the settings let training use, and hide the others."""
    return y if y is None or data.labels is None else with_labels_only(y, data.labels, training.seed)


def with_labels_only(y: Tensor, per_class: int, seed: int) -> Tensor:
    """Keep `per_class` labels of each class, drawn at random, and replace all others by -1.

    Args:
        y: the classes, `(N,)`.
        per_class: the number of labelled data of each class.
        seed: the seed of the random draw.
    """
    from pyrovae.semi_supervised import only_labels_of

    return only_labels_of(data_sets.labels_per_class(y, per_class, seed, option="labels"), y)


def settings_of(stage: Stage, training: Training) -> Training:
    """Return the settings of a stage: those of the plan, except where the stage fixes its own."""
    return training.changed(**stage.training)


def folder_of(stage: Stage, plan: Plan, folder: Path) -> Path:
    """Return the folder of a stage within a run folder. The last stage has the run folder itself."""
    return folder if stage is plan.stages[-1] else folder / stage.name


def _fit_stage(
    stage: Stage,
    x: Source,
    y: Tensor | None,
    fitted: Fitted,
    training: Training,
    data: Data,
    writing: Writing,
    identity: dict[str, Any],
    ends: Sequence[int],
) -> History:
    last = stage is fitted.plan.stages[-1]
    own = settings_of(stage, training)
    split = split_off(x, y, own, data, fitted.beside)
    own = own.sized(len(cast(Any, split.x)))
    if stage.start is not None:
        stage.start(_at_start(split.x))
    classes = _classes_of(stage, split, own, data)
    pair, given = fitted.beside.programs(stage.pair), _given_to(stage, split.x, split.y, split.beside)
    settings = _objective_of(stage, classes)
    transform = in_turn(*fitted.presentation.transforms(), *([stage.transform] if stage.transform else []))
    ends = [own.epochs] if "epochs" in stage.training else ends
    call = Call(split.x, classes, given or {}, transform)
    time = time_of(pair, settings["objective"], call, own, ends)
    folder = None if writing.folder is None else folder_of(stage, fitted.plan, Path(writing.folder))
    with _images_for_tensorboard(stage, split, fitted, writing) as callbacks:
        history = fit(
            pair,
            split.x,
            classes,
            given=given,
            **settings,
            **own.fit_settings(time),
            transform=transform,
            validation=_validation_of(stage, split),
            device=writing.device,
            folder=None if folder is None else folder / "checkpoints",
            resume=folder is not None and (writing.resume or not last),
            tensorboard=writing.scalars_in(folder) if folder is not None and last else None,
            progress=writing.progress,
            callbacks=callbacks,
            identity=identity,
        )
    if folder is not None and processes.is_first():
        history.save(folder / "history.json")
    return history


def _at_start(x: Source) -> Tensor:
    """Return the data that set initial parameters: all in memory, or some that do not take much."""
    if isinstance(x, Tensor):
        return x
    return few(x, min(FEW, max(1, MOST_AT_START // few(x, 1).numel())))


def _objective_of(stage: Stage, classes: Tensor | None) -> dict[str, Any]:
    """Return a stage's objective and the weights of sites, as `fit` takes them."""
    settings: dict[str, Any] = {"objective": stage.objective, "weights": dict(stage.weights)}
    if stage.supervised is not None and classes is not None:
        settings |= stage.supervised(classes)
    return settings


@contextmanager
def _images_for_tensorboard(
    stage: Stage, split: Split, fitted: Fitted, writing: Writing
) -> Iterator[list[TensorBoardImages]]:
    """Yield the callback that writes images, of held-out data if there are any, in the last stage."""
    every, plan = writing.tensorboard_images, fitted.plan
    if every is None or writing.folder is None or stage is not plan.stages[-1]:
        yield []
        return
    held_out = split.validation is not None
    x, y = (split.validation, split.y_validation) if held_out else (split.x, split.y)
    first = torch.arange(min(IMAGES, len(cast(Any, x))))
    images, y = few(_taken(cast(Source, x), first)), None if y is None else y[first]
    given, presentation = None if stage.given is None else stage.given(images, y), fitted.presentation
    fixed = presentation.fixed(images) if presentation.pixels == "dynamic" else images
    shown, place = presentation.shown(fixed), Path(writing.folder) / "tensorboard" / "images"
    callback = TensorBoardImages(plan.pair, place, fixed, given=given, shown=shown, every=every)
    with closing(callback):
        yield [callback]


def _classes_of(stage: Stage, split: Split, training: Training, data: Data) -> Tensor | None:
    """Hide and spread labels, and return the classes that a stage learns, `(N,)`, or None."""
    classes = hidden_labels(split.y, training, data) if stage.classes else None
    if stage.labels is None or classes is None:
        return classes
    if not isinstance(split.x, Tensor):
        raise InputError(
            f"the labels of stage '{stage.name}' spread over the latents of all data, but these are read "
            "item by item: give a tensor, or switch the spreading off (spread=False)."
        )
    return stage.labels(split.x, classes)


def _validation_of(stage: Stage, split: Split) -> Any:
    if split.validation is None:
        return None
    classes = (split.y_validation,) if stage.needs_classes else ()
    found = _given_to(stage, split.validation, split.y_validation, split.beside_validation)
    given = () if found is None else (found,)
    return (split.validation, *classes, *given) if classes or given else split.validation


def _given_to(stage: Stage, x: Source, y: Tensor | None, beside: Beside) -> dict[str, Any] | None:
    """Return what the stage itself and the user give to the programs, by name, or None."""
    own = {} if stage.given is None else dict(stage.given(x, y))
    return own | beside.arguments() or None


def _check_beside(plan: Plan, num_data: int, data: Data, writing: Writing, beside: Beside) -> None:
    """Refuse what is given beside the data if it does not fit data and settings."""
    beside.check(num_data, in_folder=writing.folder is not None)
    if beside.given and data.shift:
        raise InputError(
            f"shift is {data.shift}, but {min(beside.given)} would not be shifted with the images: leave "
            "shift out."
        )
    if beside.given and any(stage.given is not None for stage in plan.stages):
        raise InputError(
            f"{min(beside.given)} is given, but {plan.recipe or 'the plan'} makes what its programs get "
            "from the data: leave given out, or train another recipe, such as vae."
        )


def _check(plan: Plan, y: Tensor | None, training: Training, data: Data, writing: Writing) -> None:
    """Refuse settings and data that do not fit, before the first stage is trained."""
    if y is None and any(stage.classes for stage in plan.stages):
        raise InputError(
            f"{plan.recipe or 'the plan'} learns classes, but no classes are given: pass y, with -1 for "
            "unlabelled data."
        )
    if y is not None and any(stage.needs_classes for stage in plan.stages) and bool((y < 0).any()):
        raise InputError(
            f"{plan.recipe or 'the plan'} needs the class of each datum, but {int((y < 0).sum())} of "
            f"{len(y)} are unknown: leave these data out, x[y >= 0] and y[y >= 0]."
        )
    if writing.folder is None and (writing.resume or writing.tensorboard or writing.tensorboard_images):
        raise InputError("resume and tensorboard need a run folder: pass folder=...")
    if data.shift and any(stage.given is not None for stage in plan.stages):
        raise InputError(
            f"shift is {data.shift}, but the condition of {plan.recipe or 'the plan'} would not be shifted "
            "with the images: leave shift out."
        )
    for stage in plan.stages:
        own = settings_of(stage, training)
        own.check()
        if stage.classes and y is not None:
            rows = _rows_of(len(y), y, own, data)
            hidden_labels(y if rows is None else y[rows[0]], own, data)
