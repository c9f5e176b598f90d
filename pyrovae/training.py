"""fit(): minibatches -> steps of stochastic variational inference -> history and checkpoints."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from pyrovae.checkpoints import has_checkpoint, load_checkpoint, save_checkpoint
from pyrovae.checks import check_data, check_finite, check_gradients, check_pair, explain_non_finite
from pyrovae.errors import CheckpointError, InputError
from pyrovae.history import History, tensorboard_scalars, terms_per_datum
from pyrovae.objectives import ELBO, Objective, reweight
from pyrovae.programs import (
    Program,
    device_for,
    evaluating,
    latent_sites,
    modules_of,
    named_parameters,
    own_parameters,
    run_pair,
    seeded,
)
from pyrovae.schedules import Schedule, as_schedule
from pyrovae.state import fingerprint, load_state, rng_state, set_rng_state, state

Transform = Callable[[Tensor], Tensor]


def adam(parameters: Sequence[Tensor]) -> Optimizer:
    """Adam with a learning rate of 1e-3, the field's usual start."""
    return torch.optim.Adam(parameters, lr=1e-3)


def fit(
    model: Program,
    guide: Program,
    x: Tensor,
    y: Tensor | None = None,
    *,
    epochs: int = 50,
    batch_size: int = 128,
    optimizer: Callable[[Sequence[Tensor]], Optimizer] = adam,
    scheduler: Callable[[Optimizer], Any] | None = None,
    objective: Objective | None = None,
    beta: float | Schedule = 1.0,
    transform: Transform | None = None,
    clip_norm: float | None = None,
    validation: Tensor | tuple[Tensor, Tensor] | None = None,
    patience: int | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    folder: str | Path | None = None,
    resume: bool = False,
    tensorboard: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Train a model/guide pair by stochastic variational inference.

    Args:
        model: a Pyro program `model(x)` (or `model(x, y)` where `y` is given).
        guide: a Pyro program with the model's latent sites. Parameters are those of the `nn.Module`s
            whose methods the two are, and those shown by `pyro.param` and `pyro.module`.
        x: the data, `(N, *x_shape)`.
        y: the data's classes, `(N,)`, for models that use them.
        epochs: passes through the data, in all (also when resuming).
        batch_size: data in a minibatch; the last of an epoch may be smaller.
        optimizer: makes the optimiser from the parameters; `functools.partial` fixes its settings.
        scheduler: makes a learning-rate scheduler, stepped after each epoch, from the optimiser.
        objective: what is minimised; `Trace_ELBO` by default.
        beta: the weight of the latent sites, a number or a schedule of the epoch (`schedules`).
        transform: applied to each minibatch when it is presented, `data.binarise` for dynamic
            binarisation.
        clip_norm: the gradient's largest norm; steps beyond it are scaled down.
        validation: data, or data and their classes, on which the bound is measured after each epoch,
            with the same random draws each time; at the end the best epoch's parameters are put back.
        patience: stop when the validation bound has not risen for so many epochs.
        seed: of minibatches, transform and latent draws. The caller's random stream stays in place.
        device: "auto" takes CUDA where there is one, else the CPU; or any of torch's devices. Modules
            behind the programs are moved there; what plain functions use must be there already, and
            for them "auto" is where `x` is.
        folder: where a checkpoint is written after each epoch.
        resume: go on from the folder's newest checkpoint, if it has one, to the same final parameters,
            bit for bit, as if there had been no interruption.
        tensorboard: a folder for TensorBoard scalars.
        progress: show a progress bar with the ELBO's two terms.

    Returns:
        The history; the trained parameters are in the pair's modules, and in Pyro's parameter store
        what the programs keep there by `pyro.param`.

    Raises:
        InputError: data, settings or programs that do not fit together; before anything is written.
        NonFiniteError: a loss, gradient or parameter is not finite; names the step and the site.
        CheckpointError: `folder` cannot be resumed from.
    """
    check_data(x, y)
    held_out = (validation,) if isinstance(validation, Tensor) else validation or ()
    if held_out:
        check_data(*held_out)
    _check_settings(epochs, batch_size, clip_norm, patience)
    if patience is not None and not held_out:
        raise InputError("patience needs validation data to measure the bound on: pass validation=...")
    run = _Run(
        model=model,
        guide=guide,
        x=x,
        y=y,
        epochs=epochs,
        batch_size=batch_size,
        objective=objective or ELBO(),
        beta=as_schedule(beta),
        transform=transform,
        clip_norm=clip_norm,
        validation=held_out,
        patience=patience,
        seed=seed,
        device=device_for(device, model, guide, otherwise=x.device),
        folder=None if folder is None else Path(folder),
        progress=progress,
    )
    with own_parameters(), _training(model, guide), seeded(seed, run.device):
        run.prepare(optimizer, scheduler)
        run.start_or_resume(resume)
        with tensorboard_scalars(tensorboard) as write_scalars, pyro.validation_enabled(False):
            run.train(write_scalars)
    return run.history


@dataclass
class _Run:
    """The state of one training run, and its loop."""

    model: Program
    guide: Program
    x: Tensor
    y: Tensor | None
    epochs: int
    batch_size: int
    objective: Objective
    beta: Schedule
    transform: Transform | None
    clip_norm: float | None
    validation: tuple[Tensor, ...]  # x, or x and y; empty where there is none
    patience: int | None
    seed: int
    device: torch.device
    folder: Path | None
    progress: bool
    history: History = field(default_factory=History)
    best_state: dict[str, Any] | None = None

    # Before the first step

    def prepare(
        self,
        optimizer: Callable[[Sequence[Tensor]], Optimizer],
        scheduler: Callable[[Optimizer], Any] | None,
    ) -> None:
        """Move the pair to the device, find its parameters, and check everything that can be."""
        for module in modules_of(self.model, self.guide):
            module.to(self.device)
        batch = self.batch(torch.arange(min(self.batch_size, len(self.x))))
        check_pair(self.model, self.guide, *batch)
        _, guide_trace = run_pair(self.model, self.guide, *batch)
        self.latents = latent_sites(guide_trace)
        self.parameters = named_parameters(self.model, self.guide, *batch)
        with evaluating(self.model, self.guide):
            check_gradients(self.loss(batch, weight=1.0), self.parameters)
        self.check_all_data()
        self.trainable = [value for value in self.parameters.values() if value.requires_grad]
        self.optimizer = optimizer(self.trainable)
        self.scheduler = scheduler(self.optimizer) if scheduler else None

    def check_all_data(self) -> None:
        """Pass every datum through the checks of its shape and support, at little cost."""
        for indices in torch.arange(len(self.x)).split(1000):
            check_pair(self.model, self.guide, *self.batch(indices))
        for batch in self.validation_batches():
            check_pair(self.model, self.guide, *batch)

    def start_or_resume(self, resume: bool) -> None:
        """Seed the run, or put everything back as it was after the last finished epoch."""
        torch.manual_seed(self.seed)
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not has_checkpoint(self.folder):
            return
        if not resume:
            raise InputError(
                f"{self.folder} already holds checkpoints: pass resume=True to go on from them, "
                "or name another folder."
            )
        self.load(load_checkpoint(self.folder))

    # The loop

    def train(self, write_scalars: Callable[[dict[str, float]], None]) -> None:
        steps = math.ceil(len(self.x) / self.batch_size)
        first = len(self.history.rows)
        with tqdm(
            total=self.epochs * steps, initial=first * steps, unit="step", disable=not self.progress
        ) as bar:
            for epoch in range(first, self.epochs):
                if self.history.stopped_early:
                    break
                row = self.train_epoch(epoch, steps, bar)
                self.end_epoch(row)
                write_scalars(row)
        if self.best_state is not None:
            load_state(self.model, self.guide, self.parameters, self.best_state)

    def train_epoch(self, epoch: int, steps: int, bar: tqdm) -> dict[str, float]:
        start = time.perf_counter()
        totals: dict[str, Any] = {}
        for number, indices in enumerate(torch.randperm(len(self.x)).split(self.batch_size)):
            step = epoch * steps + number
            weight = self.beta(step / steps)
            values = self.step(step, weight, indices)
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value
            bar.update()
            if number % 10 == 0:
                bar.set_postfix(terms_per_datum(values, len(indices)), refresh=False)
        row = {name: float(total) / len(self.x) for name, total in totals.items()}
        if "reconstruction" in row:
            row["elbo"] = row["reconstruction"] - row["kl"]
        return row | {
            "epoch": epoch + 1,
            "step": (epoch + 1) * steps,
            "beta": self.beta(epoch + (steps - 1) / steps),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": time.perf_counter() - start,
        }

    def step(self, step: int, weight: float, indices: Tensor) -> dict[str, Any]:
        """One step of the optimiser; returns the loss and the ELBO's terms, summed over the batch."""
        batch = self.batch(indices)
        before = rng_state(self.device)
        values: dict[str, Any] = {}

        def closure() -> float:
            # An optimiser that evaluates a step more than once (LBFGS) sees the same draws each time.
            set_rng_state(before, self.device)
            loss = self.loss(batch, weight)
            if not math.isfinite(value := loss.item()):
                set_rng_state(before, self.device)
                raise explain_non_finite(f"the loss of step {step}", self.model, self.guide, *batch)
            if not values:
                values.update({"loss": loss.detach(), **getattr(self.objective, "terms", {})})
            self.optimizer.zero_grad(set_to_none=True)
            (loss / len(indices)).backward()
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.trainable, self.clip_norm)
            return value / len(indices)

        self.optimizer.step(closure)
        return values

    def loss(self, batch: tuple[Tensor, ...], weight: float) -> Tensor:
        weights = dict.fromkeys(self.latents, weight)
        model, guide = reweight(self.model, weights), reweight(self.guide, weights)
        return self.objective.differentiable_loss(model, guide, *batch)

    def end_epoch(self, row: dict[str, float]) -> None:
        """Validate, move the learning rate, and save; nothing of it if the parameters went bad."""
        check_finite(self.parameters, int(row["step"]))
        if self.validation:
            row["validation_elbo"] = self.validation_bound(int(row["epoch"]))
        self.history.rows.append(row)
        if self.validation:
            self.note_best(row)
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(-row.get("validation_elbo", -row["loss"]))
        elif self.scheduler is not None:
            self.scheduler.step()
        if self.folder is not None:
            save_checkpoint(self.folder, len(self.history.rows), self.saved())

    def validation_bound(self, epoch: int) -> float:
        """The ELBO on the validation data, nats per datum, with the same draws at every call."""
        total = 0.0
        with torch.no_grad(), evaluating(self.model, self.guide), seeded(self.seed, self.device):
            for batch in self.validation_batches():
                bound = -float(ELBO().loss(self.model, self.guide, *batch))
                if not math.isfinite(bound):
                    what = f"the validation bound of epoch {epoch}"
                    raise explain_non_finite(what, self.model, self.guide, *batch)
                total += bound
        return total / len(self.validation[0])

    def note_best(self, row: dict[str, float]) -> None:
        history = self.history
        best = history.best_epoch
        if best is None or row["validation_elbo"] > history.rows[best - 1]["validation_elbo"]:
            history.best_epoch = int(row["epoch"])
            self.best_state = copy.deepcopy(state(self.model, self.guide, self.parameters))
        elif self.patience is not None and row["epoch"] - best >= self.patience:
            history.stopped_early = True

    # Data

    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        return self.present(self.x[indices], *(() if self.y is None else (self.y[indices],)))

    def validation_batches(self) -> Iterator[tuple[Tensor, ...]]:
        for parts in zip(*(values.split(1000) for values in self.validation), strict=True):
            yield self.present(*parts)

    def present(self, x: Tensor, *y: Tensor) -> tuple[Tensor, ...]:
        x = x.to(self.device)
        x = x if self.transform is None else self.transform(x)
        return x, *(classes.to(self.device) for classes in y)

    # Checkpoints

    def saved(self) -> dict[str, Any]:
        return {
            "state": state(self.model, self.guide, self.parameters),
            "best_state": self.best_state,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "rng": rng_state(self.device),
            "history": vars(self.history),
            "settings": self.settings(),
        }

    def load(self, saved: dict[str, Any]) -> None:
        for name, now in self.settings().items():
            if saved["settings"].get(name) != now:
                raise CheckpointError(
                    f"the run in {self.folder} was begun with {name} = {saved['settings'].get(name)}, "
                    f"not {now}: resume it with what it was begun with, or name another folder."
                )
        load_state(self.model, self.guide, self.parameters, saved["state"])
        self.best_state = saved["best_state"]
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(saved["scheduler"])
        self.history = History(**saved["history"])
        set_rng_state(saved["rng"], self.device)

    def settings(self) -> dict[str, Any]:
        """What must not change when a run is resumed."""
        return {
            "batch_size": self.batch_size,
            "seed": self.seed,
            "clip_norm": self.clip_norm,
            "data": fingerprint(self.x),
            "classes": None if self.y is None else fingerprint(self.y),
            "validation": [fingerprint(values) for values in self.validation] or None,
            "scheduler": type(self.scheduler).__name__,
            "optimizer": type(self.optimizer).__name__,
        }


@contextmanager
def _training(model: Program, guide: Program) -> Iterator[None]:
    """Training mode within, the former mode of each module after."""
    with evaluating(model, guide), warnings.catch_warnings():
        # Pyro's warning would come before the error that says at which site, and why.
        warnings.filterwarnings("ignore", message="Encountered NaN")
        for module in modules_of(model, guide):
            module.train()
        yield


def _check_settings(
    epochs: int,
    batch_size: int,
    clip_norm: float | None,
    patience: int | None,
) -> None:
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "clip_norm": clip_norm,
        "patience": patience,
    }
    for name, value in settings.items():
        if value is not None and not value > 0:
            raise InputError(f"{name} is {value}; it must be above 0.")
