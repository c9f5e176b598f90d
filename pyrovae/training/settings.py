"""The settings of a training run, which do not change while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from pyrovae.compute.compilation import MODES
from pyrovae.compute.precision import PRECISIONS
from pyrovae.data.transforms import Transform
from pyrovae.errors import InputError, cause, check_choice, check_counts, check_numbers
from pyrovae.objectives.elbo import ELBO
from pyrovae.objectives.importance import IWAE
from pyrovae.objectives.objective import Objective, PyroObjective, as_objective
from pyrovae.schedules import Constant, Schedule, as_schedule
from pyrovae.storage import check_folder, expanded
from pyrovae.training.callbacks import AnyCallback, check_callbacks
from pyrovae.training.history import COLUMNS
from pyrovae.training.optimizers import (
    check_functions,
    check_one_rate,
    made_optimizer,
    made_scheduler,
)
from pyrovae.training.sources import Data, parts_of_item


def adam(parameters: Sequence[Tensor]) -> Optimizer:
    """Return Adam with a learning rate of 1e-3, the field's usual start, as one fused kernel.

    The fused kernel takes no complex parameters, so with them there are several kernels.
    """
    fused = all(parameter.is_floating_point() for parameter in parameters)
    return torch.optim.Adam(parameters, lr=1e-3, fused=fused)


@dataclass(frozen=True)
class Numbers:
    """The numbers that a step needs beside its data.

    Attributes:
        beta: the weight of the latent sites.
        weights: the weights of further sites by name.
        learning_rate: the learning rate. If `fit` was given one, a step sets it. Otherwise it is the
            optimiser's own, as its scheduler has set it.
    """

    beta: float
    weights: Mapping[str, float]
    learning_rate: float


@dataclass(frozen=True, eq=False)
class Settings:
    """The settings of a training run: the keyword arguments of `fit`, which describes them.

    Raises:
        InputError: a setting is not possible, or two contradict each other.

    Example:
        >>> Settings(epochs=20).numbers(epoch=0.5).beta
        1.0
    """

    epochs: int = 50
    batch_size: int = 128
    optimizer: Callable[[Sequence[Tensor]], Optimizer] = adam
    learning_rate: float | Schedule | None = None
    scheduler: Callable[[Optimizer], Any] | None = None
    objective: Objective | PyroObjective | None = None
    beta: float | Schedule = 1.0
    weights: Mapping[str, float | Schedule] | None = None
    labelled_batch_size: int | None = None
    data_weights: tuple[float, float] = (1.0, 1.0)
    transform: Transform | None = None
    clip_norm: float | None = None
    validation: Data | tuple[Data | Tensor | Mapping[str, Any], ...] | None = None
    patience: int | None = None
    seed: int = 0
    device: str | torch.device = "auto"
    folder: str | Path | None = None
    resume: bool = False
    tensorboard: str | Path | None = None
    progress: bool = True
    compile: str = "auto"
    precision: str = "float32"
    callbacks: Sequence[AnyCallback] = ()
    workers: int = 0
    identity: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self._convert()
        check_counts(epochs=self.epochs, batch_size=self.batch_size)
        optional = {"labelled_batch_size": self.labelled_batch_size, "patience": self.patience}
        check_counts(**{name: count for name, count in optional.items() if count is not None})
        check_counts(0, workers=self.workers)
        if self.clip_norm is not None:
            check_numbers(0, clip_norm=self.clip_norm)
        check_choice("way to compile", self.compile, MODES)
        check_choice("precision", self.precision, PRECISIONS)
        if self.validation is not None:
            parts_of_item(self.validation, "validation")
        check_functions(self.optimizer, self.scheduler, self.learning_rate)
        if self.resume and self.folder is None:
            raise InputError("resume is True, but there is no folder to resume from: pass folder=...")
        if self.patience is not None and self.validation is None:
            raise InputError(
                f"patience is {self.patience}, but there are no validation data: pass validation=..."
            )
        check_callbacks(self.callbacks)
        _check_weights(self.beta_schedule, self.weight_schedules, self.epochs, self.bound)
        if self.rate_schedule is not None:
            _check_rates(self.rate_schedule, self.epochs)

    def _convert(self) -> None:
        """Replace NumPy's numbers and tensors of one number by Python's, which a checkpoint can hold."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.dim() == 0):
                object.__setattr__(self, field.name, value.item())
        for name in ("folder", "tensorboard"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, path := expanded(path))
                check_folder(path)
        object.__setattr__(self, "data_weights", tuple(map(float, self.data_weights)))

    @cached_property
    def bound(self) -> Objective:
        """The objective, which is the ELBO by default."""
        return ELBO() if self.objective is None else as_objective(self.objective)

    @cached_property
    def beta_schedule(self) -> Schedule:
        """The weight of the latent sites as a function of the epoch."""
        return as_schedule(self.beta)

    @cached_property
    def weight_schedules(self) -> dict[str, Schedule]:
        """The weights of further sites as functions of the epoch, by site."""
        return {site: as_schedule(weight) for site, weight in (self.weights or {}).items()}

    @cached_property
    def rate_schedule(self) -> Schedule | None:
        """The learning rate as a function of the epoch. None means that the optimiser has its own rates."""
        return None if self.learning_rate is None else as_schedule(self.learning_rate, "learning_rate")

    def numbers(self, epoch: float, own_rate: float = math.nan) -> Numbers:
        """Return the numbers of a step.

        Args:
            epoch: the time, which may have a fraction.
            own_rate: the optimiser's own learning rate, which counts if no `learning_rate` was given.
        """
        weights = {site: float(weight(epoch)) for site, weight in self.weight_schedules.items()}
        rate = own_rate if self.rate_schedule is None else float(self.rate_schedule(epoch))
        return Numbers(float(self.beta_schedule(epoch)), weights, rate)

    def make_optimizer(self, parameters: Sequence[Tensor]) -> Optimizer:
        """Make the optimiser, with its settings as plain numbers.

        Raises:
            InputError: the function returns something else than an optimiser of torch, or one whose
                rates a given `learning_rate` would replace.
        """
        optimizer = made_optimizer(self.optimizer, parameters)
        if self.rate_schedule is not None:
            check_one_rate(optimizer)
        return optimizer

    def make_scheduler(self, optimizer: Optimizer) -> Any:
        """Make the scheduler, with its settings as plain numbers; None if there is none.

        Raises:
            InputError: the function returns something else than a scheduler.
        """
        return made_scheduler(self.scheduler, optimizer, saved=self.folder is not None)

    def final_numbers(self) -> Numbers:
        """Return the numbers at the end of the last epoch."""
        # Just before the end, since at the end a cyclical schedule would begin again.
        return self.numbers(math.nextafter(self.epochs, 0.0))


def _check_weights(
    beta: Schedule, weights: Mapping[str, Schedule], epochs: int, objective: Objective
) -> None:
    if taken := {*COLUMNS, "bound"} & set(weights):  # "bound" for `validation_bound`
        raise InputError(
            f"the site '{min(taken)}' has a weight and needs a column in the history, but the history has "
            "another column of that name: rename the site."
        )
    for name, schedule in {"beta": beta, **{f"the weight of '{s}'": w for s, w in weights.items()}}.items():
        looked_at = [0.0] if isinstance(schedule, Constant) else moments(epochs)
        for epoch, value in zip(looked_at, _values(name, schedule, looked_at), strict=True):
            if not 0 <= value < math.inf:
                raise InputError(
                    f"{name} is {value} at epoch {epoch:g}; it must be a finite number of at least 0."
                )
            if isinstance(objective, IWAE) and value != 1:
                raise InputError(
                    f"{name} is {value} at epoch {epoch:g}, but IWAE cannot combine weights of sites with "
                    "its importance weights: leave them at 1 (no beta, no warm-up, no weights), or use the "
                    "ELBO."
                )


def _check_rates(schedule: Schedule, epochs: int) -> None:
    looked_at = [0.0] if isinstance(schedule, Constant) else moments(epochs)
    rates = _values("learning_rate", schedule, looked_at)
    for epoch, value in zip(looked_at, rates, strict=True):
        if not 0 <= value < math.inf:
            raise InputError(
                f"learning_rate is {value} at epoch {epoch:g}; it must be a finite number of at least 0."
            )
    if not any(rates):
        raise InputError("learning_rate is 0 all the time, so nothing would be learned; give one above 0.")


def moments(epochs: int) -> list[float]:
    """Return the times at which schedules are looked at: each half epoch at first, then ever fewer.

    Those of a shorter run are the first ones of a longer run. A billion epochs have about 1,000 of them.
    """
    times = [half / 2 for half in range(min(2 * epochs, 2 * _CLOSELY))]
    while times[-1] * _GROWTH < epochs:
        times.append(float(math.ceil(times[-1] * _GROWTH)))
    return [time for time in times if time < epochs]


_CLOSELY, _GROWTH = 250, 1.02


def _values(name: str, schedule: Schedule, times: Sequence[float]) -> list[float]:
    """Return a schedule's values at these times.

    Raises:
        InputError: the schedule is not a pure function of the time.
    """
    try:
        values = [float(schedule(time)) for time in times]
        again = [float(schedule(time)) for time in times]
    except (TypeError, StopIteration) as error:
        raise InputError(
            f"{name} is a schedule that cannot be called with a time at any moment ({cause(error)}): "
            f"{_A_SCHEDULE}."
        ) from error
    for time, one, other in zip(times, values, again, strict=True):
        if one != other and not (math.isnan(one) and math.isnan(other)):
            raise InputError(
                f"{name} is {one} at epoch {time:g}, and {other} when it is called again for the same "
                f"epoch: {_A_SCHEDULE}."
            )
    return values


_A_SCHEDULE = (
    "a schedule is a pure function of the time in epochs, without a counter or an iterator. For a weight "
    "that depends on the course of the training write beta=lambda epoch: control.beta, and let a callback "
    "set control.beta"
)
