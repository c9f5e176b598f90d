"""The settings of a training run, which do not change while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from pyrovae.compute.compilation import MODES
from pyrovae.data.transforms import Transform
from pyrovae.errors import InputError, check_choice, check_counts
from pyrovae.objectives.elbo import ELBO
from pyrovae.objectives.importance import IWAE
from pyrovae.objectives.objective import Objective, PyroObjective, as_objective
from pyrovae.schedules import Constant, Schedule, as_schedule
from pyrovae.training.callbacks import AnyCallback, check_callbacks
from pyrovae.training.history import COLUMNS
from pyrovae.training.sources import Data


def adam(parameters: Sequence[Tensor]) -> Optimizer:
    """Return Adam with a learning rate of 1e-3, the field's usual start, as one fused kernel."""
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


@dataclass(frozen=True)
class Numbers:
    """The numbers that a step needs beside its data.

    Attributes:
        beta: the weight of the latent sites.
        weights: the weights of further sites by name.
        learning_rate: the optimiser's learning rate, as its scheduler has set it. Steps do not set it.
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
    scheduler: Callable[[Optimizer], Any] | None = None
    objective: Objective | PyroObjective | None = None
    beta: float | Schedule = 1.0
    weights: Mapping[str, float | Schedule] | None = None
    labelled_batch_size: int | None = None
    data_weights: tuple[float, float] = (1.0, 1.0)
    transform: Transform | None = None
    clip_norm: float | None = None
    validation: Data | tuple[Data, Tensor] | None = None
    patience: int | None = None
    seed: int = 0
    device: str | torch.device = "auto"
    folder: str | Path | None = None
    resume: bool = False
    tensorboard: str | Path | None = None
    progress: bool = True
    compile: str = "auto"
    callbacks: Sequence[AnyCallback] = ()
    workers: int = 0

    def __post_init__(self) -> None:
        check_counts(epochs=self.epochs, batch_size=self.batch_size)
        optional = {"labelled_batch_size": self.labelled_batch_size, "patience": self.patience}
        optional["workers"] = self.workers if self.workers != 0 else None
        check_counts(**{name: count for name, count in optional.items() if count is not None})
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"clip_norm is {self.clip_norm}; it must be above 0.")
        check_choice("way to compile", self.compile, MODES)
        if isinstance(self.validation, tuple | list) and len(self.validation) != 2:
            raise InputError(
                f"validation has {len(self.validation)} parts; give data, or data and their classes."
            )
        if not callable(self.optimizer):
            raise InputError(
                f"optimizer is a {type(self.optimizer).__name__} object; expected a function that makes an "
                "optimiser of torch from the parameters: write "
                "optimizer=functools.partial(torch.optim.Adam, lr=1e-3)."
            )
        if isinstance(self.optimizer, PyroOptim):
            raise InputError(
                "optimizer is an optimiser of Pyro, which works in Pyro's SVI only: write "
                "optimizer=functools.partial(torch.optim.Adam, lr=1e-3)."
            )
        if self.resume and self.folder is None:
            raise InputError("resume is True, but there is no folder to resume from: pass folder=...")
        if self.patience is not None and self.validation is None:
            raise InputError(
                f"patience is {self.patience}, but there are no validation data: pass validation=..."
            )
        check_callbacks(self.callbacks)
        _check_weights(self.beta_schedule, self.weight_schedules, self.epochs, self.bound)

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

    def numbers(self, epoch: float, learning_rate: float = math.nan) -> Numbers:
        """Return the numbers of a step at the time `epoch`, which may have a fraction."""
        weights = {site: weight(epoch) for site, weight in self.weight_schedules.items()}
        return Numbers(self.beta_schedule(epoch), weights, learning_rate)

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
        for epoch in range(1 if isinstance(schedule, Constant) else epochs):
            value = schedule(epoch)
            if not 0 <= value < math.inf:
                raise InputError(
                    f"{name} is {value} at epoch {epoch}; it must be a finite number of at least 0."
                )
            if isinstance(objective, IWAE) and value != 1:
                raise InputError(
                    f"{name} is {value} at epoch {epoch}, but IWAE cannot combine weights of sites with "
                    "its importance weights: leave them at 1 (no beta, no warm-up, no weights), or use the "
                    "ELBO."
                )
