"""The loop of a run: epochs of steps, then validation, scheduler, checkpoint and callbacks."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from pyrovae._version import __version__
from pyrovae.compute import processes
from pyrovae.compute.devices import seeded
from pyrovae.compute.interrupts import end_in_order, interrupts_deferred
from pyrovae.compute.precision import check_precision, products_in
from pyrovae.compute.progress import progress_bar
from pyrovae.compute.streams import as_plain, from_plain, seed_streams, set_streams, streams
from pyrovae.compute.turns import give_way
from pyrovae.errors import CheckpointError, InputError, NonFiniteError, cause
from pyrovae.objectives.elbo import ELBO
from pyrovae.programs.checks import check_pair
from pyrovae.programs.modes import buffers_kept
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.parameters import module_parameters
from pyrovae.programs.reach import modules_of
from pyrovae.training.batches import Minibatches, Rows
from pyrovae.training.callbacks import call_all
from pyrovae.training.checkpoints import find_checkpoint, history_path, new_run, save_checkpoint
from pyrovae.training.history import History, HistoryFile, shown_terms
from pyrovae.training.identity import (
    check_same_run,
    identity_of,
    optimizer_identity,
    scheduler_identity,
)
from pyrovae.training.non_finite import check_finite
from pyrovae.training.plain import check_readable, described, plain
from pyrovae.training.preparation import prepare
from pyrovae.training.settings import Numbers, Settings
from pyrovae.training.state import TrainedState
from pyrovae.training.step import EagerStep
from pyrovae.training.steps import build_step
from pyrovae.training.trainable import Trainable
from pyrovae.training.validation import Validation

WriteRow = Callable[[Mapping[str, float]], None]

_MEASURED = 5  # the minibatches on which the effect of rounded products is measured


class TrainingRun:
    """A training run: its parts, built and checked, and the loop over epochs.

    Use it if `fit` does too much, for example to take single steps:

        with own_parameters(pair), in_training(pair):
            run = TrainingRun(pair, data, None, Settings(compile="off"))
            step = run.build_step()
            for rows in data.epoch(0):
                step(rows, run.numbers(0.0))

    Args:
        pair: the pair to train.
        data: the minibatches of the training data, on the run's device.
        validation: the minibatches of the validation data, or None.
        settings: the settings. Validation data and device are taken from the arguments above.

    Raises:
        InputError: data, settings or programs do not fit together.
    """

    def __init__(
        self, pair: ModelAndGuide, data: Minibatches, validation: Minibatches | None, settings: Settings
    ) -> None:
        self.pair, self.settings = pair, settings
        self.device = data.device
        self.folder = None if settings.folder is None else Path(settings.folder)
        self.history = History()
        self._known_as = (settings.identity or {}).get("run")
        self.name = str(self._known_as or new_run())
        self._lines: HistoryFile | None = None
        transform = described(settings.transform)  # before it is called, which may change it
        self.prepared = prepare(data.given.bound_to(pair, data.device), data, validation, settings)
        kinds = (value.dtype for value in self.prepared.parameters.values() if value.is_floating_point())
        self._precision = (settings.precision, data.device, next(kinds, torch.float32))
        check_precision(*self._precision)
        self.data = replace(data, shuffle=not self.prepared.in_order)
        self.parameters = Trainable(
            pair, self.prepared.parameters, self.prepared.trained, settings.make_optimizer
        )
        self.optimizer = self.parameters.optimizer
        self._made = {"transform": transform} | optimizer_identity(self.optimizer)
        self.scheduler = settings.make_scheduler(self.optimizer)
        self._made |= scheduler_identity(self.scheduler, self.optimizer)
        self._made["frozen"] = self.parameters.frozen()
        self.trained = TrainedState(pair, self.parameters, self.device)
        self.validation = (
            None
            if validation is None
            else Validation(
                validation.given.bound_to(pair, data.device),
                validation,
                settings,
                self.prepared.loss.unit,
                data.parts[-1].batch_size,
            )
        )
        self._validation_data = validation
        self._identity: dict[str, Any] | None = None
        self._readable = False
        self._saved_step: dict[str, Any] | None = None
        self._called_back = True  # whether the callbacks of the last epoch have run

    def build_step(self) -> EagerStep:
        """Return the step that the settings ask for, eager or compiled."""
        return build_step(self.data, self.prepared, self.parameters, self.settings, self._saved_step)

    def numbers(self, epoch: float) -> Numbers:
        """Return the numbers of a step at the time `epoch`, which may have a fraction."""
        return self.settings.numbers(epoch, float(self.optimizer.param_groups[0]["lr"]))

    # Beginning and end

    def start_or_resume(self) -> None:
        """Seed a new run, or restore the state after the last finished epoch.

        Raises:
            CheckpointError: the folder's checkpoint is damaged, or belongs to another run.
            InputError: the folder holds a checkpoint, but `resume` is False.
        """
        if processes.count() > 1:
            own = {"run", "rates"}  # of each process alone: a new run's name, and what its optimiser adds
            alike = {name: value for name, value in self._run_identity().items() if name not in own}
            processes.check_alike(alike | _versions())
        seed_streams(self.settings.seed)
        processes.set_as_in_first(self._tensors().values())
        asked = (self.folder, self.settings.resume, self._known_as)
        found = find_checkpoint(*asked) if processes.is_first() else None
        if saved := processes.from_first(found):
            try:
                self._load(saved)
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
                if isinstance(error, CheckpointError | InputError):
                    raise
                raise CheckpointError(
                    f"{self.folder}/{saved['file']} cannot be restored ({cause(error)}): remove it to go "
                    "on from the checkpoint before, or train in another folder."
                ) from error
        elif self.folder is not None and processes.is_first():
            check_readable(plain(self._content()))
            self._lines = HistoryFile(history_path(self.folder, self.name))

    def train(self, write_row: WriteRow) -> None:
        """Train to the last epoch. With validation data, then restore the parameters of the best epoch.

        Args:
            write_row: a function that is called with each epoch's row of the history.
        """
        if self.settings.precision != "float32" and self.history.precision_error is None:
            self.history.precision_error = self._rounding()
        with products_in(*self._precision):
            self._train(write_row)

    def _rounding(self) -> float:
        """Return the mean absolute change of the loss by rounded products, over the first minibatches."""
        numbers, size = self.settings.final_numbers(), self.data.parts[-1].batch_size
        losses: dict[str, list[float]] = {"float32": [], self.settings.precision: []}
        for precision, of_precision in losses.items():
            with (
                seeded(self.settings.seed, self.device),
                buffers_kept(self.pair),
                torch.no_grad(),
                products_in(precision, *self._precision[1:]),
            ):
                for number in range(min(_MEASURED, self.data.steps)):
                    batch = self.data.first(number * size)
                    of_precision.append(float(self.prepared.loss(batch, numbers.beta, numbers.weights)[0]))
        exact, rounded = losses.values()
        return sum(abs(a - b) for a, b in zip(exact, rounded, strict=True)) / len(exact)

    def _train(self, write_row: WriteRow) -> None:
        steps, epochs = self.data.steps, self.settings.epochs
        first = len(self.history.rows)
        progress = self.settings.progress and processes.is_first()
        unsaved = False
        if not self._called_back and self.settings.callbacks:  # the run was killed while they ran or later
            unsaved = self._call_back()
            write_row(self.history.rows[-1])
        step = self.build_step() if first < epochs and not self.history.stopped_early else None
        end_in_order()  # until here nothing could be half-written
        with (
            nullcontext() if step is None else closing(step),
            self.parameters.gradients_released(),
            interrupts_deferred() as stop_if_asked,
            progress_bar(progress, epochs * steps, "step", first * steps) as bar,
        ):
            for epoch in range(first, epochs):
                if step is None or self.history.stopped_early:
                    break
                self._end_epoch(self._train_epoch(step, epoch, bar, stop_if_asked))
                unsaved = self._call_back()
                write_row(self.history.rows[-1])
        if unsaved:
            self._save()
        if self.validation is not None and self.validation.best_state is not None:
            self.trained.put_back_pair(self.validation.best_state)

    # An epoch

    def _train_epoch(
        self, step: EagerStep, epoch: int, bar: tqdm, stop_if_asked: Callable[[], None]
    ) -> dict[str, float]:
        """Train for an epoch.

        If the steps were not watched and the loss is not finite, the epoch is repeated with watched steps,
        to find the step and the site.
        """
        before = None if step.watched else copy.deepcopy(self.trained.saved())
        row = self._pass_through_data(step, epoch, bar, stop_if_asked)
        if before is not None and not math.isfinite(row["loss"]):
            self.trained.put_back(before)
            step.watched, bar.n = True, epoch * self.data.steps
            self._pass_through_data(step, epoch, bar, stop_if_asked)
            raise NonFiniteError(
                f"the loss of epoch {epoch + 1} was not finite, but it was when the epoch was repeated: "
                "lower the learning rate, or clip the gradient's norm."
            )
        return row

    def _pass_through_data(
        self, step: EagerStep, epoch: int, bar: tqdm, stop_if_asked: Callable[[], None]
    ) -> dict[str, float]:
        """Take the steps of an epoch, and return its row of the history."""
        start, steps = time.perf_counter(), self.data.steps
        if epoch == 1 and isinstance(self.settings.bound, ELBO):
            step.has_other_ways = self.settings.bound.look_again()
        step.begin(epoch * steps)
        self.parameters.refresh()
        step.compare(epoch)
        self._saved_step = step.saved()
        if processes.count() > 1:
            set_streams(from_plain(processes.from_first(as_plain(streams(self.device)))), self.device)
        order = self.data.epoch(epoch)
        processes.draw_apart()
        check = self.data.source.stream and epoch == 0
        for number, rows in enumerate(order):
            batch = self._checked(rows) if check else rows
            step(batch, self.numbers((epoch * steps + number) / steps))
            bar.update()
            stop_if_asked()
            if processes.count() == 1:  # processes must make the same calls in the same order
                give_way()
            if number % 10 == 0 and step.watched:
                bar.set_postfix(shown_terms(_means(step)), refresh=False)
        row = _means(step)
        if not step.watched:
            bar.set_postfix(shown_terms(row))
        last = self.numbers(epoch + (steps - 1) / steps)
        return row_of(row, last, epoch, steps, time.perf_counter() - start)

    def _checked(self, rows: tuple[Rows, ...]) -> Any:
        """Read a minibatch of a stream for the first time, and check it."""
        batch = self.data.batch(rows, check=True)
        with seeded(0, self.device):
            for call in batch.calls:
                check_pair(self.prepared.loss.pair, *call.arguments.args, **call.arguments.kwargs)
        return batch

    def _end_epoch(self, row: dict[str, float]) -> None:
        """Validate, change the learning rate and save, unless the parameters are not finite."""
        check_finite(self.parameters.named, int(row["step"]))
        if self.validation is not None:
            row |= self.validation.bounds(int(row["epoch"]))
        # Processes may round differently, but they must decide alike.
        row = processes.from_first(row)
        self.history.rows.append(row)
        if self.validation is not None:
            self.validation.note(self.history, self.trained.of_pair)
        self._step_scheduler(row)
        self._called_back = not self.settings.callbacks
        self._save()

    def _step_scheduler(self, row: Mapping[str, float]) -> None:
        """Let the scheduler set the learning rate of the next epoch."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            loss = -self.validation.competing(row) if self.validation else row["loss"]
            # In either mode an improvement is a rise of the bound.
            self.scheduler.step(-loss if self.scheduler.mode == "max" else loss)
        elif self.scheduler is not None:
            self.scheduler.step()

    def _call_back(self) -> bool:
        """Run the callbacks, and return whether there are any, so that the checkpoint must say so."""
        callbacks, row = self.settings.callbacks, self.history.rows[-1]
        if not callbacks:
            return False
        several = processes.count() > 1
        before = self._shapes() if several else {}
        logged, stop = call_all(callbacks, self.pair, row, self.settings.seed, self.device)
        if several:
            self._follow_first(before)
        row |= logged
        if stop:
            self.history.stopped_early = self.history.stopped_by_callback = True
        self._called_back = True
        return True

    def _follow_first(self, before: Mapping[str, Any]) -> None:
        """Set parameters and buffers to what callbacks have made of them in the first process."""
        after = processes.from_first(self._shapes())
        if changed := sorted({name for name, _ in set(before.items()) ^ set(after.items())}):
            raise InputError(
                f"a callback has added, removed or replaced '{changed[0]}', but with several processes "
                "callbacks run in the first one only, and the others would not have it: train in one "
                "process, or build the model in its final form and let the callback freeze parts of it, by "
                "requires_grad_(False)."
            )
        processes.set_as_in_first(self._tensors().values())

    def _shapes(self) -> dict[str, Any]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors().items()}

    def _tensors(self) -> dict[str, Tensor]:
        """Return by name what is trained, and the parameters and buffers of all modules."""
        found = dict(self.parameters.named) | module_parameters(self.pair)
        for number, module in enumerate(modules_of(self.pair)):
            found |= {f"{name} ({number})": buffer for name, buffer in module.named_buffers()}
        return found

    # Checkpoints

    def _save(self) -> None:
        if self.folder is None or not processes.is_first():
            return
        content = plain(self._content())
        if not self._readable:  # checked twice: before the first step, and when there are moments
            check_readable(content)
            self._readable = True
        assert self._lines is not None
        content["history"] = self._lines.write(self.history)
        save_checkpoint(self.folder, len(self.history.rows), content)

    def _content(self) -> dict[str, Any]:
        return self.trained.saved() | {
            "best_state": self.validation.best_state if self.validation else None,
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "run": self.name,
            "settings": self._run_identity(),
            "step": self._saved_step,
            "called_back": self._called_back,
        }

    def _load(self, saved: dict[str, Any]) -> None:
        identity = self._run_identity()
        changed = check_same_run(saved, identity, self.settings.epochs, self.folder)
        another_rate = bool({"learning_rate", "scheduler"} & set(changed))
        self.trained.resume(saved, with_settings=not another_rate)
        self._freeze_as(saved, identity)
        if self.validation is not None:
            self.validation.best_state = saved["best_state"]
        self._saved_step = saved.get("step")  # older runs have none
        self._called_back = bool(saved.get("called_back", True))
        self.history = History(**saved["history"])
        self.name = saved["run"]
        if self.folder is not None:
            path = history_path(self.folder, self.name)
            self._lines = HistoryFile(path, saved["lines"], self.history.rows)
        if self.scheduler is not None and another_rate:
            with warnings.catch_warnings():  # the optimiser has taken no step yet
                warnings.filterwarnings("ignore", message=".*lr_scheduler.step")
                for row in self.history.rows:
                    self._step_scheduler(row)
        elif self.scheduler is not None:
            self.scheduler.load_state_dict(saved["scheduler"])
        self.history.stopped_by_callback &= bool(self.settings.callbacks)
        self.history.stopped_early = (
            self.history.exceeds(self.settings.patience) or self.history.stopped_by_callback
        )

    def _freeze_as(self, saved: dict[str, Any], identity: dict[str, Any]) -> None:
        """Freeze what was frozen when the run was interrupted, unless another choice is asked for now."""
        begun, later = set(saved["settings"]["frozen"]), set(saved["trained"]["frozen"])
        now = set(identity["frozen"])
        for name, value in self.parameters.named.items():
            if (name in begun) == (name in now):
                value.requires_grad_(name not in later)
        self.parameters.refresh()

    def _run_identity(self) -> dict[str, Any]:
        if self._identity is None:
            self._identity = self._made | identity_of(self.settings, self.data, self._validation_data)
        return self._identity


def row_of(
    means: Mapping[str, float], last: Numbers, epoch: int, steps: int, seconds: float
) -> dict[str, float]:
    """Return an epoch's row of the history.

    Args:
        means: the mean loss and the means of its terms, by name.
        last: the numbers of the epoch's last step.
        epoch: the number of the epoch, from 0.
        steps: the number of steps in an epoch.
        seconds: the time that the epoch took.
    """
    elbo = {"elbo": means["reconstruction"] - means["kl"]} if "reconstruction" in means else {}
    return {
        **means,
        **elbo,
        **{f"weight of {site}": weight for site, weight in last.weights.items()},
        "epoch": epoch + 1,
        "step": (epoch + 1) * steps,
        "beta": last.beta,
        "learning_rate": last.learning_rate,
        "seconds": seconds,
    }


def _versions() -> dict[str, str]:
    found = {"pyrovae": __version__, "torch": torch.__version__, "Pyro": pyro.__version__}
    return {f"version of {name}": str(version) for name, version in found.items()}


def _means(step: EagerStep) -> dict[str, float]:
    return {name: total / step.count for name, total in step.read().items()}
