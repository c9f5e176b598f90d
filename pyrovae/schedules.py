"""Schedules: pure functions from the training time to a weight. The time is in epochs, with fractions.

For example,

    fit(vae, x, beta=linear_warm_up(10))

raises the weight of the KL divergence from 0 to 1 over the first ten epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Real

from pyrovae.errors import InputError

Schedule = Callable[[float], float]


@dataclass(frozen=True)
class Constant:
    """The schedule that always returns the same weight.

    Attributes:
        value: the weight.
    """

    value: float

    def __call__(self, epoch: float) -> float:
        return self.value


def constant(value: float) -> Schedule:
    """Return the schedule that always has the same weight.

    Args:
        value: the weight, finite and at least 0.

    Raises:
        InputError: the weight is negative, infinite, NaN, or not a real number.
    """
    _check_weight(value)
    return Constant(float(value))


def linear_warm_up(epochs: float, end: float = 1.0, delay: float = 0.0) -> Schedule:
    """Return a schedule that rises linearly from 0, then is constant (Bowman et al. 2016, without delay).

    Args:
        epochs: the length of the rise, in epochs.
        end: the weight after the rise.
        delay: the number of epochs at weight 0 before the rise.

    Raises:
        InputError: `epochs` is not above 0, `delay` is negative, or `end` is not finite and at least 0.

    Example:
        >>> beta = linear_warm_up(10)
        >>> beta(0), beta(2.5), beta(10), beta(50)
        (0.0, 0.25, 1.0, 1.0)
    """
    _check_positive("epochs", epochs)
    _check_weight(end)
    if not delay >= 0:
        raise InputError(f"delay is {delay}; it must be at least 0.")
    return lambda epoch: end * min(1.0, max(0.0, epoch - delay) / epochs)


def cyclical(period: float, end: float = 1.0, rise: float = 0.5) -> Schedule:
    """Return a schedule that in every period rises linearly from 0, then is constant (Fu et al. 2019).

    Args:
        period: the length of a period, in epochs.
        end: the weight after the rise, until the end of the period.
        rise: the fraction of the period that the rise takes, above 0 and at most 1.

    Raises:
        InputError: `period` is not above 0, `rise` is not above 0 and at most 1, or `end` is not finite and
            at least 0.

    Example:
        >>> beta = cyclical(4)
        >>> [beta(epoch) for epoch in (0, 1, 2, 3, 4, 5)]
        [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]
    """
    _check_positive("period", period)
    _check_weight(end)
    if not 0 < rise <= 1:
        raise InputError(f"rise is {rise}; it must be a fraction of the period, above 0 and at most 1.")
    return lambda epoch: end * min(1.0, (epoch % period) / (rise * period))


def as_schedule(weight: float | Schedule) -> Schedule:
    """Return a schedule as it is, and a number, also a tensor of one number, as a constant schedule.

    Raises:
        InputError: the number is negative, infinite, or NaN.
    """
    if isinstance(weight, Iterator):
        raise InputError(
            f"the weight is {weight!r}, an iterator; expected a number or a function of the time in "
            "epochs, such as lambda epoch: min(1.0, epoch / 10)."
        )
    if callable(weight):
        return weight
    return constant(weight.item() if getattr(weight, "shape", None) == () else weight)  # type: ignore


def _check_weight(value: float) -> None:
    if not isinstance(value, Real) or not 0 <= value < math.inf:
        raise InputError(f"the weight is {value!r}; it must be a finite number of at least 0.")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise InputError(f"{name} is {value}; it must be above 0.")
