"""The loop of a run: epochs of steps, then validation, scheduler, checkpoint and callbacks."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from pyrovae.compute import processes
from pyrovae.compute.devices import seeded
from pyrovae.compute.interrupts import interrupts_deferred
from pyrovae.errors import NonFiniteError
from pyrovae.programs.checks import check_pair
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.parameters import modules_of
from pyrovae.training.batches import Minibatches, Rows
from pyrovae.training.callbacks import call_all
from pyrovae.training.checkpoints import find_checkpoint, save_checkpoint
from pyrovae.training.history import History, shown_terms
from pyrovae.training.identity import check_same_run, identity_of
from pyrovae.training.non_finite import check_finite
from pyrovae.training.preparation import prepare
from pyrovae.training.settings import Numbers, Settings
from pyrovae.training.state import TrainedState, load_state, rng_state, set_rng_state
from pyrovae.training.step import EagerStep, build_step
from pyrovae.training.validation import Validation

WriteRow = Callable[[Mapping[str, float]], None]


class TrainingRun:
    """A training run: its parts, built and checked, and the loop over epochs.

    Use it if `fit` does too much, for example to take single steps:

        with own_parameters(), in_training(pair):
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
        self.pair, self.data, self.settings = pair, data, settings
        self.device = data.device
        self.folder = None if settings.folder is None else Path(settings.folder)
        self.history = History()
        self.prepared = prepare(pair, data, validation, settings)
        self.parameters = self.prepared.parameters
        self.optimizer = settings.optimizer(self.prepared.trainable)
        self.scheduler = settings.scheduler(self.optimizer) if settings.scheduler else None
        self.trained = TrainedState(pair, self.parameters, self.optimizer, self.device)
        self.validation = (
            None
            if validation is None
            else Validation(pair, validation, settings, batch_size=data.parts[-1].batch_size)
        )
        self._validation_data = validation
        self._identity: dict[str, Any] | None = None
        self._saved_step: dict[str, Any] | None = None

    def build_step(self) -> EagerStep:
        """Return the step that the settings ask for, eager or compiled."""
        return build_step(self.data, self.prepared, self.optimizer, self.settings, self._saved_step)

    def numbers(self, epoch: float) -> Numbers:
        """Return the numbers of a step at the time `epoch`, which may have a fraction."""
        return self.settings.numbers(epoch, self.optimizer.param_groups[0]["lr"])

    # Beginning and end

    def start_or_resume(self) -> None:
        """Seed a new run, or restore the state after the last finished epoch.

        Raises:
            CheckpointError: the folder's checkpoint is damaged, or belongs to another run.
            InputError: the folder holds a checkpoint, but `resume` is False.
        """
        torch.manual_seed(self.settings.seed)
        buffers = [b for module in modules_of(self.pair) for b in module.buffers()]
        processes.set_as_in_first([*self.parameters.values(), *buffers])
        found = find_checkpoint(self.folder, self.settings.resume) if processes.is_first() else None
        if saved := processes.from_first(found):
            self._load(saved)

    def train(self, write_row: WriteRow) -> None:
        """Train to the last epoch. With validation data, then restore the parameters of the best epoch.

        Args:
            write_row: a function that is called with each epoch's row of the history.
        """
        steps, epochs = self.data.steps, self.settings.epochs
        first = len(self.history.rows)
        progress = self.settings.progress and processes.is_first()
        unsaved = False
        with (
            interrupts_deferred() as stop_if_asked,
            tqdm(total=epochs * steps, initial=first * steps, unit="step", disable=not progress) as bar,
        ):
            step = None
            for epoch in range(first, epochs):
                if self.history.stopped_early:
                    break
                step = step or self.build_step()
                step.compare(epoch)
                self._saved_step = step.saved()
                self._end_epoch(self._train_epoch(step, epoch, bar, stop_if_asked))
                unsaved = self._call_back()
                write_row(self.history.rows[-1])
        if unsaved:
            self._save()
        if self.validation is not None and self.validation.best_state is not None:
            load_state(self.pair, self.parameters, self.validation.best_state)

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
        step.begin(epoch * steps)
        set_rng_state(processes.from_first(rng_state(self.device)), self.device)
        order = self.data.epoch(epoch)
        processes.draw_apart()
        check = self.data.source.stream and epoch == 0
        for number, rows in enumerate(order):
            batch = self._checked(rows) if check else rows
            step(batch, self.numbers((epoch * steps + number) / steps))
            bar.update()
            stop_if_asked()
            if number % 10 == 0 and step.watched:
                bar.set_postfix(shown_terms(_means(step)), refresh=False)
        row = _means(step)
        if not step.watched:
            bar.set_postfix(shown_terms(row))
        if "reconstruction" in row:
            row["elbo"] = row["reconstruction"] - row["kl"]
        last = self.numbers(epoch + (steps - 1) / steps)
        return {
            **row,
            **{f"weight of {site}": weight for site, weight in last.weights.items()},
            "epoch": epoch + 1,
            "step": (epoch + 1) * steps,
            "beta": last.beta,
            "learning_rate": last.learning_rate,
            "seconds": time.perf_counter() - start,
        }

    def _checked(self, rows: tuple[Rows, ...]) -> Any:
        """Read a minibatch of a stream for the first time, and check it."""
        batch = self.data.batch(rows, check=True)
        with seeded(0, self.device):
            for call in batch.calls:
                check_pair(self.pair, *call.args)
        return batch

    def _end_epoch(self, row: dict[str, float]) -> None:
        """Validate, change the learning rate and save, unless the parameters are not finite."""
        check_finite(self.parameters, int(row["step"]))
        if self.validation is not None:
            row |= self.validation.bounds(int(row["epoch"]))
        # Processes may round differently, but they must decide alike.
        row = processes.from_first(row)
        self.history.rows.append(row)
        if self.validation is not None:
            self.validation.note(self.history, self.trained)
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(-self.validation.competing(row) if self.validation else row["loss"])
        elif self.scheduler is not None:
            self.scheduler.step()
        self._save()

    def _call_back(self) -> bool:
        """Run the callbacks, and return whether they changed what the checkpoint must hold."""
        callbacks, row = self.settings.callbacks, self.history.rows[-1]
        if not callbacks:
            return False
        logged, stop = call_all(callbacks, self.pair, row, self.settings.seed, self.device)
        row |= logged
        if stop:
            self.history.stopped_early = self.history.stopped_by_callback = True
        return bool(logged) or stop

    # Checkpoints

    def _save(self) -> None:
        if self.folder is None or not processes.is_first():
            return
        content = self.trained.saved() | {
            "best_state": self.validation.best_state if self.validation else None,
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "history": vars(self.history),
            "settings": self._run_identity(),
            "step": self._saved_step,
        }
        save_checkpoint(self.folder, len(self.history.rows), content)

    def _load(self, saved: dict[str, Any]) -> None:
        check_same_run(saved, self._run_identity(), self.settings.epochs, self.folder)
        self.trained.put_back(saved)
        if self.validation is not None:
            self.validation.best_state = saved["best_state"]
        if self.scheduler is not None:
            self.scheduler.load_state_dict(saved["scheduler"])
        self._saved_step = saved.get("step")  # older runs have none
        self.history = History(**saved["history"])
        self.history.stopped_by_callback &= bool(self.settings.callbacks)
        self.history.stopped_early = (
            self.history.exceeds(self.settings.patience) or self.history.stopped_by_callback
        )

    def _run_identity(self) -> dict[str, Any]:
        if self._identity is None:
            self._identity = identity_of(
                self.settings, self.data, self._validation_data, self.optimizer, self.scheduler
            )
        return self._identity


def _means(step: EagerStep) -> dict[str, float]:
    return {name: total / step.count for name, total in step.read().items()}
