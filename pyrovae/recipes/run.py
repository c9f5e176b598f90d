"""Runs: training with a recipe, by its name, into a run folder; and the trained model of a run folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec
import torch
from torch import Tensor

from pyrovae import data as data_sets
from pyrovae.compute import processes
from pyrovae.compute.devices import resolve_device, seeded
from pyrovae.data import DATASETS, Images
from pyrovae.data.loading import Rows, load_again, load_rows
from pyrovae.errors import CheckpointError, InputError, check_choice, one_line
from pyrovae.evaluation import MarginalLikelihood
from pyrovae.evaluation.json_files import decoded
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.parameters import named_parameters, own_parameters
from pyrovae.programs.reach import modules_of
from pyrovae.recipes.about import About, in_unit_interval
from pyrovae.recipes.declaration import declaration_of
from pyrovae.recipes.fitting import (
    Split,
    Writing,
    beneath,
    fit_plan,
    folder_of,
    hidden_labels,
    identity_of,
    settings_of,
    split_off,
)
from pyrovae.recipes.options import checked_options, model_options, options_of, shared_options
from pyrovae.recipes.own_files import digest_of, is_own
from pyrovae.recipes.pair_run import PairRun
from pyrovae.recipes.plan import Plan, Stage
from pyrovae.recipes.presentation import Presentation
from pyrovae.recipes.recipe import load_recipe
from pyrovae.recipes.run_data import Known, Scored, other_data, values_of, values_of_split
from pyrovae.recipes.settings import Data, Training, plain_values
from pyrovae.recipes.verdict import Verdict
from pyrovae.runs import Configuration, RunFolder
from pyrovae.storage import expanded
from pyrovae.training import History
from pyrovae.training.checkpoints import checkpoints_in, load_checkpoint
from pyrovae.training.identity import first_difference
from pyrovae.training.state import digest_of_pair, load_state


def train(
    recipe: str,
    folder: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    training: Training | None = None,
    data: Data | None = None,
    device: str = "auto",
    download: bool = False,
    tensorboard: bool = False,
    tensorboard_images: int | None = None,
    progress: bool = True,
    resume: bool = False,
) -> Run:
    """Train a recipe's model on a data set, both given by name, and write a run folder.

    Args:
        recipe: a name in `RECIPES`, or `"mine.py:build"`.
        folder: the run folder to write.
        options: the recipe's options by name. Those that are not given take their defaults.
        training: the settings of the training. Those that are not given take the recipe's defaults.
        data: the data set, and its preparation for the model.
        device: the device. "auto" means CUDA if it is available, else the CPU.
        download: whether a named data set may be downloaded.
        tensorboard: whether to write scalars for TensorBoard.
        tensorboard_images: write samples and reconstructions too, each time after so many
            epochs. None means no images.
        progress: whether to show progress bars.
        resume: whether to go on with the run in the folder, if it has one already.

    Raises:
        InputError: the folder is in use, or an option does not fit. Nothing is left behind then.
        CheckpointError: the run in the folder was begun with other options or data.
        OSError: the folder cannot be written.

    Example:
        >>> from pyrovae.recipes import Training, train
        >>> small = {"width": 8, "latent_dim": 2}
        >>> run = train("vae", "first", options=small, training=Training(epochs=1), progress=False)
        >>> len(run.history.rows)
        1
    """
    build, folder = load_recipe(recipe), expanded(folder)
    defaults = declaration_of(build).defaults
    training, data = (training or Training()).over(defaults), (data or Data()).over(defaults)
    _check_values(build, recipe, options or {}, training, data)
    resume = resume and RunFolder(folder).config_path.is_file()
    RunFolder(folder).check_free(resume)
    RunFolder(folder).check_writable()
    resolve_device(device)
    data = data.changed(data=_from_anywhere(data.data))
    with processes.first_before_others():  # only the first process downloads the data
        images = data_sets.load(data.data, seed=data.split_seed, download=download)
    hidden, within = data.labels is not None, in_unit_interval(images.x_train)
    facts = images.num_classes, hidden, training.seed, within, images.column_names
    about = About(images.shape, *facts)
    plan = build(about, **(options or {}))
    board = (tensorboard, tensorboard_images)
    writing = Writing(folder, device, resume, *board, progress, Known.of(images))
    fit_plan(plan, images.x_train, images.y_train, training, data, writing)
    return Run.open(folder, own_names(recipe, plan.options))


def finished(
    recipe: str, folder: Path, options: Mapping[str, Any], training: Training, data: Data
) -> Run | None:
    """Return the run in a folder if `train` with these settings has come to its end there, else None.

    Nothing is written. A run that cannot be read, or whose data have changed, is not finished: `train` says
    what is wrong with it.
    """
    try:
        build = load_recipe(recipe)
        defaults = declaration_of(build).defaults
        training, data = training.over(defaults), data.over(defaults)
        run = Run.open(folder, own_names(recipe, options))
        same = (
            run.config.recipe == recipe
            and run.plan.options == build(run.about, **options).options
            and plain_values(run.training) == plain_values(training)
            and plain_values(run.data) == plain_values(data.changed(data=_from_anywhere(data.data)))
        )
        last = run.plan.stages[-1]
        ended = run.history.stopped_early or run.epochs >= settings_of(last, training).epochs
        _ = run.images  # whose values are checked
        return run if same and ended and run.verdict is not None else None
    except (InputError, CheckpointError):
        return None


Content = TypeVar("Content")

GIVEN = "the data given in Python"

AskedData = str | Path | Tensor | tuple[Tensor, Tensor | None]
"""Data to ask a run about: a name or a file; or data `(N, *x_shape)`, with or without their classes."""


class _Limit(msgspec.Struct):
    """The choice of the data that were measured, if these are not all."""

    num_data: int
    of: int
    seed: int


class _OfCheckpoint(msgspec.Struct):
    """The checkpoint that a result is of."""

    checkpoint: str


class _Metrics(_OfCheckpoint):
    """The values in metrics.json that figures and commands read. Other ones may be there."""

    log_likelihood: float | None
    mean_std_error: float | None
    num_samples: int
    exact_log_likelihood: float | None = None
    test_error: float | None = None
    limit: _Limit | None = None


def own_names(recipe: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the user's own files that a model needs, `FILE.py:NAME` by "recipe" or the option's name."""
    return {name: value for name, value in {"recipe": recipe, **options}.items() if is_own(value)}


@dataclass(repr=False)
class Run:
    """A run folder, and the trained model in it.

    Args:
        folder: the folder.
        config: the configuration.
        own: the user's own files, `FILE.py:NAME` by "recipe" or by the option's name.
        asked: the data that the run is asked about: a name or a file, or data `(N, *x_shape)` and their
            classes `(N,)` or None. None means the run's own.

    Example:
        >>> from pyrovae.generation import sample_images
        >>> run = Run.open("runs/first")            # doctest: +SKIP
        >>> images = sample_images(run.pair, 10)    # doctest: +SKIP
        >>> print(run.evidence(num_samples=500))    # doctest: +SKIP
    """

    folder: Path
    config: Configuration
    own: Mapping[str, str] = field(default_factory=dict)
    asked: str | tuple[Tensor, Tensor | None] | None = None

    @overload
    @classmethod
    def open(
        cls,
        folder: str | Path,
        own: Mapping[str, str] | None = None,
        data: AskedData | None = None,
        pair: None = None,
    ) -> Run: ...

    @overload
    @classmethod
    def open(
        cls,
        folder: str | Path,
        own: None = None,
        data: AskedData | None = None,
        *,
        pair: ModelAndGuide,
    ) -> PairRun: ...

    @classmethod
    def open(
        cls,
        folder: str | Path,
        own: Mapping[str, str] | None = None,
        data: AskedData | None = None,
        pair: ModelAndGuide | None = None,
    ) -> Run | PairRun:
        """Open a run folder; or, with `pair`, a folder that `fit(pair, folder=...)` wrote.

        Args:
            folder: the folder.
            own: the user's own files that the run was trained with, `FILE.py:NAME` by "recipe" or by the
                option's name, such as `{"posterior": "mine.py:Mine"}`. They are executed. A file that only
                the run folder names is never executed.
            data: the data that the run is asked about: a name or a file, as `train` takes them; or a tensor
                `(N, *x_shape)`, or a tuple of it and its classes `(N,)`. If their values are those of the
                training, they are the run's own data, and its split is used. All other data are scored
                whole. None means the run's own data, which a run on data that were given in Python does not
                hold.
            pair: the pair that was trained, built as it was then. Its parameters are set to those of the
                best epoch.

        Returns:
            The run. With `pair` it has the pair, its history and its evidence on `data` alone.

        Raises:
            InputError: the folder is not a run folder, its configuration cannot be read, version 0.1
                wrote it, or one of the user's own files is not given.
            CheckpointError: the checkpoints are those of another pair than `pair`, or damaged.
        """
        folder = expanded(folder)
        asked = _asked(data)
        if pair is not None:
            return PairRun.open(folder, pair, asked)
        config = RunFolder(folder).configuration
        run = cls(folder, config, dict(own or {}), asked)
        run._check_own()
        run._checked_values()
        _ = run.about
        return run

    def __repr__(self) -> str:
        """Return a line of what the configuration says. No other file is read."""
        config, asked = self.config, "" if self.asked is None else f"; asked about {_name_of(self.asked)}"
        data = GIVEN if config.from_python else config.data.get("data", "")
        options = ", ".join(f"{name}={value}" for name, value in config.options.items())
        text = f"run {self.folder}: {config.recipe}({options}) on {data}"
        return one_line(f"{text}, {config.training.get('epochs')} epochs{asked}")

    @cached_property
    def recipe(self) -> Callable[..., Plan]:
        """The recipe that built the model."""
        name = self.own.get("recipe", self.config.recipe)
        if not name:
            raise InputError(
                f"{self.folder} holds a plan that was made without a recipe: it can be trained and "
                "resumed in Python only."
            )
        try:
            return load_recipe(name)
        except InputError as error:
            raise error if is_own(name) else self._damaged(error) from None

    @property
    def classes(self) -> bool:
        """Whether the model learns classes."""
        return declaration_of(self.recipe).classes

    @property
    def training(self) -> Training:
        """The settings of the training."""
        return Training(**self._checked_values()[1]).over(declaration_of(self.recipe).defaults)

    @property
    def data(self) -> Data:
        """The settings of the data."""
        return Data(**self._checked_values()[2]).over(declaration_of(self.recipe).defaults)

    @property
    def about(self) -> About:
        """The facts about the data that the model was built for."""
        try:
            return msgspec.convert(self.config.about, About)
        except msgspec.ValidationError as error:
            raise self._damaged(error) from None

    @cached_property
    def plan(self) -> Plan:
        """The plan, newly built, with initial parameters."""
        return self.recipe(self.about, **self._checked_values()[0])

    @cached_property
    def checkpoints(self) -> dict[str, dict[str, Any]]:
        """The newest sound checkpoint of each stage by its name, without its optimiser.

        They are read once, so that all that a run tells is of one state, also while training goes on.

        Raises:
            CheckpointError: all checkpoints of a stage are damaged or absent; or they do not belong to this
                run, its configuration or the stages beneath. The message names what differs.
        """
        expected, found = self._identity, {}
        for stage in self.plan.stages:
            saved = self._loaded(stage, needs_history=False)
            self._check_together(stage, saved, expected)
            _load(stage, self.about, saved["best_state"] or saved["state"])
            expected = expected | {beneath(stage): digest_of_pair(stage.pair)}
            kept = {name: saved[name] for name in ("file", "epochs", "history")}
            found[stage.name] = kept | {"state": saved["best_state"] or saved["state"]}
        for module in modules_of(self.plan.pair):
            module.eval()
        return found

    def _loaded(self, stage: Stage, needs_history: bool) -> dict[str, Any]:
        """Read the newest sound checkpoint of a stage."""
        folder = folder_of(stage, self.plan, self.folder) / "checkpoints"
        return load_checkpoint(folder, run=self.config.run, needs_history=needs_history)

    @property
    def _identity(self) -> dict[str, Any]:
        """What the checkpoints must agree with. An option that config.json lacks has its default."""
        resolved = replace(
            self.config,
            options=dict(self.plan.options),
            training=plain_values(self.training),
            data=plain_values(self.data),
            about=vars(self.about),
        )
        return identity_of(self.plan, resolved)

    def _check_together(self, stage: Stage, saved: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        """Check that a stage's checkpoint was trained with what is expected.

        Raises:
            CheckpointError: it was not. The message names what differs.
        """
        begun = saved["settings"]
        missing = sorted(expected.keys() - begun.keys())
        if (name := missing[0] if missing else first_difference(begun, expected)) is None:
            return
        place = folder_of(stage, self.plan, self.folder) / "checkpoints" / saved["file"]
        raise CheckpointError(
            f"{place} and {self.folder / 'config.json'} do not belong together: {name} was "
            f"{begun.get(name, 'not set')!r} in the training, and is {expected[name]!r} now. Restore the "
            "file that was changed, or train again."
        )

    @cached_property
    def pair(self) -> ModelAndGuide:
        """The trained pair, with the parameters of the best epoch, or of the last one without validation.

        Raises:
            CheckpointError: for the reasons given at `checkpoints`; or the values of the run's data have
                changed, and no other data are asked about.
        """
        _ = self.checkpoints  # which loads the parameters
        self._check_data()
        return self.plan.pair

    def evidence(
        self,
        *,
        num_samples: int = 5000,
        limit: int | None = None,
        device: str = "auto",
        progress: bool = False,
        **options: Any,
    ) -> MarginalLikelihood:
        """Estimate log p(x) of the test data, or of the data that the run is asked about.

        Args:
            num_samples: K, the number of importance samples for each datum.
            limit: the largest number of test data. None means all.
            device: the device. "auto" means CUDA if it is available, else the CPU.
            progress: whether to show a progress bar.
            options: the arguments `precision` and `compile` of `marginal_likelihood`.

        Raises:
            InputError: the model has nothing to integrate out, or an option does not fit.
        """
        from pyrovae.recipes.measuring import evaluate

        return evaluate(self, num_samples, limit, device, progress, **options).result

    @property
    def checkpoint(self) -> str:
        """The name of the checkpoint that the run's results are of."""
        name: str = self.checkpoints[self.plan.stages[-1].name]["file"]
        return name

    @property
    def epochs(self) -> int:
        """The number of finished epochs of the last stage, up to the checkpoint that was read."""
        number: int = self.checkpoints[self.plan.stages[-1].name]["epochs"]
        return number

    @property
    def histories(self) -> dict[str, History]:
        """The history of each stage by its name, up to the checkpoints that were read.

        Raises:
            CheckpointError: the file with the rows of a history has been lost or altered.
        """
        for saved in self.checkpoints.values():
            if saved["history"] is None:
                raise CheckpointError(
                    f"the history of {self.folder} has been lost or altered since {saved['file']} was "
                    "written: restore its file checkpoints/history-*.jsonl. Commands that need no "
                    "history, such as evaluate and sample, go on without it."
                )
        return {name: History(**saved["history"]) for name, saved in self.checkpoints.items()}

    @property
    def history(self) -> History:
        """The history of the last stage; see `histories`."""
        return self.histories[self.plan.stages[-1].name]

    @property
    def metrics(self) -> dict[str, Any] | None:
        """The summary of the last evaluation on the run's test data. None if it is of another checkpoint.

        Raises:
            InputError: metrics.json is damaged.
        """
        return self._of_this_checkpoint("metrics.json", "the metrics of a run", _Metrics, dict[str, Any])

    @property
    def verdict(self) -> Verdict | None:
        """What the training has come to. None if the training did not end, or is of another checkpoint.

        Raises:
            InputError: verdict.json is damaged.
        """
        return self._of_this_checkpoint("verdict.json", "the verdict on a run", _OfCheckpoint, Verdict)

    def _of_this_checkpoint(
        self, file: str, what: str, known: type[_OfCheckpoint], kind: type[Content]
    ) -> Content | None:
        """Read a result of the run. Return None if there is none, or if it is of another checkpoint.

        Args:
            file: the name of its file.
            what: a name for it, for messages.
            known: the values that every such file has, with their types.
            kind: the type of the whole content.
        """
        path = self.folder / file
        if not path.is_file():
            return None
        text = path.read_bytes()
        is_of_this = decoded(text, known, path, what).checkpoint == self.checkpoint
        return decoded(text, kind, path, what) if is_of_this else None

    @cached_property
    def images(self) -> Images:
        """The data set of the training.

        Raises:
            InputError: it cannot be read, or was given in Python.
            CheckpointError: its values have changed.
        """
        if self._own_elsewhere is not None:
            return self._own_elsewhere
        if self.config.from_python or self.config.values is None:
            raise InputError(
                f"{self.folder} was trained on data that were given in Python, which it does not hold: "
                "name data by --data FILE, or in Python by Run.open(..., data=(x, y))."
            )
        try:
            images = load_again(self.data.data, self.data.split_seed, self.config.scale)
        except InputError as error:
            raise InputError(
                f"{error} If the data of {self.folder} lie elsewhere now, or to score others, name them "
                "by --data FILE."
            ) from None
        if values_of_split(images) != self.config.values:
            raise CheckpointError(
                f"the values of {self.data.data} (data) are not those on which {self.folder} was trained: "
                "restore them, or name where they lie now by --data FILE. Other data are scored if --data "
                "names them."
            )
        self._check_names(images, self.data.data)
        return images

    def _check_names(self, images: Images, where: str) -> None:
        """Check that the classes have the names that they had in the training, if they have any.

        Raises:
            CheckpointError: a name differs.
        """
        for label, (name, known) in enumerate(zip(images.names, self.class_names, strict=False)):
            if name != known:
                raise CheckpointError(
                    f"class {label} of {where} is called {name!r}, and was called {known!r} when "
                    f"{self.folder} was trained: give the classes their former names, or train again."
                )

    @cached_property
    def scored(self) -> Scored:
        """The data that the run is measured on: its test data, or all rows of other data."""
        _ = self.checkpoints  # what belongs together is checked before data are read
        if self._given is None or self._own_elsewhere is not None:
            own = self.images
            x_test = self.presentation.within_range(own.x_test, "the test data")
            return Scored(x_test, own.y_test, self.class_names, own.name, None, own.column_names)
        if self.config.from_python and self._given.scale != self.config.scale:
            raise InputError(
                f"{self.asked} holds whole numbers, and {self.folder} was trained on data that were given "
                "in Python, of which it is not known whether they were divided by 255: save floats on the "
                "scale of the training data."
            )
        name = self.asked if isinstance(self.asked, str) else None
        found = other_data(name, self._given, self.about, self.class_names)
        return replace(found, x=self.presentation.within_range(found.x, name or "the data"))

    @cached_property
    def _given(self) -> Rows | None:
        """The data that the run is asked about, or None for its own."""
        if isinstance(self.asked, str):
            return load_rows(self.asked, None if self.config.from_python else self.config.scale)
        return None if self.asked is None else Rows(GIVEN, *self.asked, (), None, self.config.scale)

    @cached_property
    def _own_elsewhere(self) -> Images | None:
        """The run's own data, if these are what it is asked about; known by their values."""
        if self._given is None or self.config.values is None:
            return None
        if self.config.from_python:
            return self._all_own(self._given.x, self._given.y)
        try:
            images = self._given.split(self.data.split_seed)
        except InputError:  # too few data: other ones, then
            return None
        if values_of_split(images) != self.config.values:
            return None
        self._check_names(images, str(self.asked))
        return images

    def _all_own(self, x: Tensor, y: Tensor | None) -> Images | None:
        """Return the data that were given in Python, if these are they. They have no part for testing."""
        for classes in {id(y): y, id(None): None}.values():
            if values_of(x, classes) == self.config.values:
                return Images(f"{GIVEN}, all of which were trained on", x, y, x, y)
        return None

    def _check_data(self) -> None:
        """Check the values of the run's own data, if they are there."""
        if self._given is None:
            with suppress(InputError):  # they are gone, and only what needs them must say so
                _ = self.images

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, or their numbers if they have no names."""
        return [*self.config.class_names] or [str(label) for label in range(self.about.num_classes)]

    def number_of_class(self, name: str) -> int:
        """Return the number of a class.

        Raises:
            InputError: no class has this name.
        """
        check_choice("class", name, self.class_names)
        return self.class_names.index(name)

    @property
    def presentation(self) -> Presentation:
        """The preparation of the data for the model."""
        return Presentation.of(self.plan.pixels, self.data)

    def given(self, x: Tensor, y: Tensor | None) -> Mapping[str, Any] | None:
        """Return what is given to the model beside data, such as the condition of a conditional VAE.

        Args:
            x: the data, prepared for the encoder, `(N, *x_shape)`.
            y: their classes `(N,)`, or None.

        Returns:
            The values by name; None if nothing is given.
        """
        stage = self.plan.stages[-1]
        return None if stage.given is None else stage.given(x, y)

    def training_data(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the data that the last stage learns, their labels, and the validation data.

        Hidden labels are -1. The labels are None for a model without classes.
        """
        split = self._split()
        y = None if not self.plan.stages[-1].classes else hidden_labels(split.y, self.training, self.data)
        return _tensor(split.x), y, None if split.validation is None else _tensor(split.validation)

    def training_classes(self) -> tuple[Tensor, Tensor | None]:
        """Return the data that the last stage learns, and all their classes, if the data set has any."""
        split = self._split()
        return _tensor(split.x), split.y

    def _split(self) -> Split:
        x = self.presentation.for_training(self.images.x_train)
        own = settings_of(self.plan.stages[-1], self.training)
        return split_off(x, self.images.y_train, own, self.data)

    def resume(
        self,
        *,
        device: str = "auto",
        tensorboard: bool = False,
        tensorboard_images: int | None = None,
        progress: bool = True,
        **changes: Any,
    ) -> Run:
        """Continue the training.

        Beyond the last epoch the learning rate warms up and decays once more over the new epochs, and a
        line says so. Beta does not.

        Args:
            device: the device. "auto" means CUDA if it is available, else the CPU.
            tensorboard: whether to write scalars for TensorBoard. A run that has some goes on with them
                either way.
            tensorboard_images: write samples and reconstructions too, each time after so many
                epochs. None means no images.
            progress: whether to show progress bars.
            changes: new values of settings of the training, such as `epochs=200`.

        Returns:
            The run, opened again.

        Raises:
            InputError: a setting does not fit. The run stays as it was.
            CheckpointError: the run cannot be resumed with these settings, or its data have changed.
        """
        resolve_device(device)
        training = self.training.changed(**changes)
        _check_values(self.recipe, self.config.recipe, self.plan.options, training, self.data)
        RunFolder(self.folder).check_writable()
        self._check_begun()
        images, data = self._own_data()
        fresh = Run(self.folder, self.config, self.own)  # with initial parameters
        board = (tensorboard, tensorboard_images)
        writing = Writing(self.folder, device, True, *board, progress, self._known)
        fit_plan(fresh.plan, images.x_train, images.y_train, training, data, writing)
        return Run.open(self.folder, self.own)

    def branch(
        self,
        folder: str | Path,
        *,
        options: Mapping[str, Any] | None = None,
        device: str = "auto",
        progress: bool = True,
        **changes: Any,
    ) -> Run:
        """Begin a new run at this run's parameters, for example with another objective.

        The epochs are counted from 0 again, and the optimiser starts anew. The learning rate warms up and
        decays once more, but beta does not warm up unless `warm_up` is given. This run stays as it is.

        Args:
            folder: the folder of the new run.
            options: the recipe's options that change, such as `{"objective": "dreg", "particles": 8}`. The
                parameters must keep their shapes.
            device: the device. "auto" means CUDA if it is available, else the CPU.
            progress: whether to show progress bars.
            changes: new values of settings of the training, such as `epochs=200`.

        Returns:
            The new run. Its configuration names the checkpoint that it began at.

        Raises:
            InputError: the folder is in use, or an option does not fit.
            CheckpointError: the options change the parameters, or the run's data have changed.

        Example:
            >>> run = Run.open("runs/first")                                              # doctest: +SKIP
            >>> run.branch("runs/iwae", options={"objective": "iwae", "particles": 50})    # doctest: +SKIP
        """
        folder = expanded(folder)
        training = self.training.changed(**({"warm_up": 0.0} | changes))
        asked = dict(options or {})
        options = self._inherited(asked) | asked
        _check_values(self.recipe, self.config.recipe, options, training, self.data)
        RunFolder(folder).check_free()
        RunFolder(folder).check_writable()
        resolve_device(device)
        _ = self.pair  # reads the checkpoints, and checks the data
        (images, data), plan = self._own_data(), self.recipe(self.about, **options)
        for number, stage in enumerate(plan.stages):
            saved = self.checkpoints[stage.name]["state"]
            plan = plan.with_stage(number, start=partial(_begin, stage, self.about, saved))
        begun = f"{self.checkpoint} of run {self.config.run}"
        writing = Writing(folder, device, progress=progress, data_set=self._known, begun_from=begun)
        fit_plan(plan, images.x_train, images.y_train, training, data, writing)
        return Run.open(folder, own_names(plan.recipe, plan.options))

    def _own_data(self) -> tuple[Images, Data]:
        """Return the run's own data, and the settings that name where they lie now.

        Raises:
            CheckpointError: the run is asked about other data than its own.
        """
        if self.asked is not None and self._own_elsewhere is None:
            raise CheckpointError(
                f"the values of {self.scored.name} (data) are not those on which {self.folder} "
                "was trained, and a run goes on with its own data alone: leave --data out, or train a new "
                "run on these data."
            )
        images = self.images
        moved = isinstance(self.asked, str) and not self.config.from_python
        return images, self.data.changed(data=_from_anywhere(str(self.asked))) if moved else self.data

    def _inherited(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Return the run's options but for those of a component in whose place another one is chosen."""
        own = dict(self.plan.options)
        before, after = model_options(self.recipe, own), model_options(self.recipe, own | changes)
        kept = {n for n in own if n in after and after[n].component == before[n].component}
        return {name: value for name, value in own.items() if name in kept}

    @property
    def _known(self) -> Known:
        """What is remembered of the run's own data."""
        config = self.config
        return Known(config.values, tuple(config.class_names), config.scale, config.from_python)

    def _check_begun(self) -> None:
        """Check that the checkpoints that there are belong to this run and its configuration.

        Raises:
            CheckpointError: they do not; or a stage has none, and began at another run's parameters.
        """
        expected = self._identity
        for stage in self.plan.stages:
            folder = folder_of(stage, self.plan, self.folder) / "checkpoints"
            if self.config.begun_from and not checkpoints_in(folder):
                raise CheckpointError(
                    f"{self.folder} began at {self.config.begun_from}, and ended before its first "
                    "checkpoint: remove it, and branch again."
                )
            if checkpoints_in(folder):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the training reads them again, and warns
                    self._check_together(stage, self._loaded(stage, needs_history=True), expected)

    def _checked_values(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Return options, training and data of the configuration, checked and converted to their types."""
        path = str(self.folder / "config.json")
        options = self.config.options | {n: v for n, v in self.own.items() if n != "recipe"}
        try:
            return (
                checked_options(self.recipe, options, model_options(self.recipe, options), path),
                checked_options(self.recipe, self.config.training, shared_options("Training"), path),
                checked_options(self.recipe, self.config.data, shared_options("Data"), path),
            )
        except (TypeError, AttributeError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> InputError:
        path = self.folder / "config.json"
        return InputError(f"{path} cannot be read as a run's configuration: {error}")

    def _check_own(self) -> None:
        needed = own_names(self.config.recipe, self.config.options)
        for name, recorded in needed.items():
            if name not in self.own:
                raise InputError(
                    f"{self.folder} was trained with a file of your own, {recorded}. No file is executed "
                    f"only because a run folder names it: name it again by --{name} {recorded}, or in "
                    f"Python by Run.open({str(self.folder)!r}, own={{{name!r}: {recorded!r}}})."
                )
            if self.config.files.get(recorded) != digest_of(self.own[name]):
                warnings.warn(
                    f"{self.own[name]} is not the file with which {self.folder} was trained: its SHA-256 "
                    "differs.",
                    stacklevel=4,
                )
        if unused := self.own.keys() - needed.keys():
            name = min(unused)
            raise InputError(
                f"{self.folder} was not trained with a {name} of your own, but with "
                f"{self.config.options.get(name, self.config.recipe)!r}: leave --{name} out, "
                f"or in Python leave {name!r} out of own."
            )


def _begin(stage: Stage, about: About, saved: Mapping[str, Any], _: Tensor) -> None:
    """Let a stage begin at saved parameters, whatever the data are."""
    _load(stage, about, saved)


def _asked(data: AskedData | None) -> str | tuple[Tensor, Tensor | None] | None:
    if data is None or isinstance(data, tuple):
        return data
    return (data, None) if isinstance(data, Tensor) else str(data)


def _name_of(asked: str | tuple[Tensor, Tensor | None]) -> str:
    return asked if isinstance(asked, str) else f"data of shape {tuple(asked[0].shape)}"


def _load(stage: Stage, about: About, saved: Mapping[str, Any]) -> None:
    """Load the parameters of a stage's pair.

    Parameters of `pyro.param` and `pyro.module` in plain functions are known only after the functions ran.
    """
    if not saved["parameters"]:
        load_state(stage.pair, {}, dict(saved))
        return
    x, y = torch.zeros(2, *about.x_shape), torch.zeros(2, dtype=torch.long)
    given = {} if stage.given is None else stage.given(x, y)
    with own_parameters(stage.pair), seeded(about.seed), torch.no_grad():
        named = named_parameters(stage.pair, x if stage.transform is None else stage.transform(x), **given)
        load_state(stage.pair, named, dict(saved))


def _check_values(
    build: Callable[..., Plan], recipe: str, options: Mapping[str, Any], training: Training, data: Data
) -> None:
    known = options_of(build, options)
    checked_options(build, options, known)
    for settings in (training, data):
        for name in settings.given:
            if name in known:
                known[name].checked(getattr(settings, name))
    if "labels" in data.given and data.labels is not None and "labels" not in known:
        raise InputError(
            f"labels is {data.labels}, but {recipe} learns no classes: leave labels out. To classify its "
            "latents after training, use: pyrovae classify RUN --labels 10."
        )
    training.check()


def _from_anywhere(name: str) -> str:
    """Return the full path of a file or folder, so that a run finds it from any working directory."""
    path = expanded(name)
    whole = str(path.resolve()) if name not in DATASETS and name and path.exists() else name
    if any("\ud800" <= letter <= "\udfff" for letter in whole):
        raise InputError(
            f"{whole} has a name with bytes that are no UTF-8 text, which config.json cannot hold: rename "
            "the file or folder."
        )
    return whole


def _tensor(x: Any) -> Tensor:
    """Return a run's data as the tensor that they are: they are always in memory."""
    assert isinstance(x, Tensor)
    return x
