"""Schedules: pure functions from the training time to a weight or a learning rate.

The time is in epochs, with fractions. For example,

    fit(vae, x, epochs=30, beta=linear_warm_up(10), learning_rate=cosine_decay(30, 2e-3, warm_up=1))

raises the weight of the KL divergence from 0 to 1 over the first ten epochs. The learning rate rises to
2e-3 in the first epoch, and falls to 0 over the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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


def cosine_decay(epochs: float, peak: float, *, warm_up: float = 0.0) -> Schedule:
    """Return a schedule that rises linearly from 0, then falls to 0 along half a cosine.

    It is meant for learning rates (Loshchilov and Hutter 2017, with the linear rise of Goyal et al. 2017).

    Args:
        epochs: the length of rise and fall together, in epochs. From then on the value is 0.
        peak: the value after the rise.
        warm_up: the length of the rise, in epochs. 0 means that the schedule begins at its peak.

    Raises:
        InputError: `epochs` is not above 0, `warm_up` is negative or above `epochs`, or `peak` is not
            finite and at least 0.

    Example:
        >>> rate = cosine_decay(10, 0.5, warm_up=2)
        >>> rate(0), rate(1), rate(2), round(rate(6), 9), rate(10)
        (0.0, 0.25, 0.5, 0.25, 0.0)
    """
    _check_positive("epochs", epochs)
    _check_weight(peak, "peak")
    if not 0 <= warm_up <= epochs:
        raise InputError(f"warm_up is {warm_up}; it must be at least 0 and at most epochs, {epochs}.")

    def rate(epoch: float) -> float:
        if epoch < warm_up:
            return peak * epoch / warm_up
        if epoch >= epochs:
            return 0.0
        return peak * 0.5 * (1.0 + math.cos(math.pi * (epoch - warm_up) / (epochs - warm_up)))

    return rate


def chained(parts: Sequence[tuple[float, Schedule]]) -> Schedule:
    """Return a schedule that follows others one after another. Each of them begins at time 0 of its own.

    Args:
        parts: the length of each schedule in epochs, and the schedule. The last one has no end.

    Raises:
        InputError: there are no schedules, or a length is not above 0.

    Example:
        >>> twice = chained([(10, cosine_decay(10, 0.5)), (5, cosine_decay(5, 0.5))])
        >>> twice(0), twice(10), round(twice(12.5), 9)
        (0.5, 0.5, 0.25)
    """
    if not parts:
        raise InputError(
            "parts is empty; give at least one length and schedule, such as (10, constant(1))."
        )
    for length, _ in parts:
        _check_positive("the length of a schedule", length)

    def follow(epoch: float) -> float:
        for length, schedule in parts[:-1]:
            if epoch < length:
                return schedule(epoch)
            epoch -= length
        return parts[-1][1](epoch)

    return follow


def as_schedule(value: float | Schedule, name: str = "the weight") -> Schedule:
    """Return a schedule as it is, and a number, also a tensor of one number, as a constant schedule.

    Args:
        value: the number or the schedule.
        name: what it is, for messages.

    Raises:
        InputError: the number is negative, infinite, or NaN.
    """
    if isinstance(value, Iterator):
        raise InputError(
            f"{name} is {value!r}, an iterator; expected a number or a function of the time in "
            "epochs, such as lambda epoch: min(1.0, epoch / 10)."
        )
    if callable(value):
        return value
    number = value.item() if getattr(value, "shape", None) == () else value  # type: ignore[attr-defined]
    _check_weight(number, name)
    return Constant(float(number))


def _check_weight(value: float, name: str = "the weight") -> None:
    if not isinstance(value, Real) or not 0 <= value < math.inf:
        raise InputError(f"{name} is {value!r}; it must be a finite number of at least 0.")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise InputError(f"{name} is {value}; it must be above 0.")
