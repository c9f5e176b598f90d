"""Callbacks: a user's own code at the end of each epoch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol, cast

import torch
from torch import Tensor

from pyrovae.compute import processes
from pyrovae.compute.devices import seeded
from pyrovae.errors import InputError
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.training.sources import item_seeds


@dataclass
class EpochEnd:
    """The state of a run at the end of an epoch, as a callback sees it.

    Attributes:
        pair: the pair that is trained, in evaluation mode.
        row: the epoch's row of the history, read-only.
        epoch: the number of the epoch, from 1.
    """

    pair: ModelAndGuide
    row: Mapping[str, float]
    epoch: int
    logged: dict[str, float] = field(default_factory=dict)
    stopped: bool = False

    def log(self, name: str, value: float | Tensor) -> None:
        """Add a number to the epoch's row of the history, and so to TensorBoard.

        The number is saved with the next checkpoint, or at the end of the run. If the run is killed before,
        the callbacks run for this epoch again when the run is resumed.

        Args:
            name: the name of the column.
            value: a number, or a tensor of one element.

        Raises:
            InputError: the history has a column of this name already, or the value is not a number.
        """
        if name in self.row:
            raise InputError(f"the history has a column '{name}' already: log under another name.")
        try:
            self.logged[name] = float(value.detach() if isinstance(value, Tensor) else value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"'{name}' is logged as {value!r}; expected a number.") from error

    def stop(self) -> None:
        """End the run after this epoch, in all processes.

        The run stays stopped when it is resumed with callbacks, and goes on when it is resumed without any.
        """
        self.stopped = True


class Callback(Protocol):
    """An object that `fit` calls at the end of each epoch. A function of the state is a callback too.

    It runs in the first process only, after the epoch's checkpoint has been written. The others then get
    the values that it has given to parameters and buffers, and what it has frozen. Its random draws depend
    on the run's seed and the epoch, and do not change the run's random stream. If it raises an error, the
    run ends, and can be resumed from the checkpoint. What callbacks did after the newest checkpoint is not
    in it. So a resumed run begins with the callbacks of the last finished epoch, if the run was killed
    before they had been saved.

    Example:
        >>> def stop_at_100_nats(state):
        ...     if state.row["elbo"] > -100:
        ...         state.stop()
    """

    def on_epoch_end(self, state: EpochEnd) -> None:
        """Look at the run, log numbers, or stop it."""
        ...


AnyCallback = Callback | Callable[[EpochEnd], object]


def check_callbacks(callbacks: Sequence[AnyCallback]) -> None:
    """Check that all callbacks are callbacks.

    Raises:
        InputError: `callbacks` is not a list or tuple, or one of them is neither a function nor has
            `on_epoch_end`.
    """
    if not isinstance(callbacks, list | tuple):
        raise InputError(f"callbacks is {callbacks!r}; expected a list or tuple of callbacks.")
    for callback in callbacks:
        if inspect.isclass(callback) or not callable(_function_of(callback)):
            raise InputError(
                f"the callback {callback!r} is not a function and has no method on_epoch_end: give a "
                "function of the state, or an object with that method."
            )


def _function_of(callback: AnyCallback) -> Callable[[EpochEnd], object]:
    return cast(Callable[[EpochEnd], object], getattr(callback, "on_epoch_end", callback))


def call_all(
    callbacks: Sequence[AnyCallback],
    pair: ModelAndGuide,
    row: Mapping[str, float],
    seed: int,
    device: torch.device,
) -> tuple[dict[str, float], bool]:
    """Run the callbacks in the first process.

    Args:
        callbacks: the callbacks, in this order.
        pair: the pair that is trained.
        row: the epoch's row of the history.
        seed: the run's seed.
        device: the device of the run. Its random stream is not changed.

    Returns:
        The logged numbers, and whether the run must stop, the same in all processes.
    """
    epoch = int(row["epoch"])
    state = EpochEnd(pair, MappingProxyType(dict(row)), epoch)
    if processes.is_first():
        own = int(item_seeds(seed, 1, "callbacks", epoch))
        with seeded(own, device), evaluating(pair):
            for callback in callbacks:
                _function_of(callback)(state)
    return processes.from_first((state.logged, state.stopped))
