"""Schedules: pure functions from training time, in epochs (fractions included), to a weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

from pyrovae.errors import InputError

Schedule = Callable[[float], float]


@dataclass(frozen=True)
class Constant:
    """The same weight throughout."""

    value: float

    def __call__(self, epoch: float) -> float:
        return self.value


def constant(value: float) -> Schedule:
    """The same weight throughout."""
    _check_weight(value)
    return Constant(value)


def linear_warm_up(epochs: float, end: float = 1.0, delay: float = 0.0) -> Schedule:
    """0 for `delay` epochs, from there to `end` in a straight line over `epochs`, then `end`
    (Bowman et al. 2016, without delay)."""
    _check_positive("epochs", epochs)
    _check_weight(end)
    if not delay >= 0:
        raise InputError(f"delay is {delay}; it must be at least 0.")
    return lambda epoch: end * min(1.0, max(0.0, epoch - delay) / epochs)


def cyclical(period: float, end: float = 1.0, rise: float = 0.5) -> Schedule:
    """Every `period` epochs from 0 to `end` over the first `rise` of the period, then `end`
    (Fu et al. 2019)."""
    _check_positive("period", period)
    _check_weight(end)
    if not 0 < rise <= 1:
        raise InputError(f"rise is {rise}; it is a fraction of the period, above 0 and at most 1.")
    return lambda epoch: end * min(1.0, (epoch % period) / (rise * period))


def as_schedule(weight: float | Schedule) -> Schedule:
    """A schedule as it is; a number as the schedule that is constant."""
    return weight if callable(weight) else constant(weight)


def _check_weight(value: float) -> None:
    if not isinstance(value, Real) or not 0 <= value < math.inf:
        raise InputError(f"a weight of {value!r} is not possible: give a finite number of at least 0.")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise InputError(f"{name} is {value}; it must be above 0.")
