"""Schedules are pure functions of the epoch."""

import math

import pytest

from pyrovae.errors import InputError
from pyrovae.schedules import as_schedule, constant, cyclical, linear_warm_up


def values(schedule, *epochs):
    return [schedule(epoch) for epoch in epochs]


def test_constant_is_the_same_throughout():
    assert values(constant(4.0), 0, 0.3, 1e6) == [4.0, 4.0, 4.0]


def test_warm_up_rises_in_a_straight_line_then_stays():
    assert values(linear_warm_up(10, end=4.0), 0, 2.5, 5, 10, 10.1, 1e6) == [0, 1, 2, 4, 4, 4]
    assert values(linear_warm_up(2), 0, 1, 3) == [0, 0.5, 1]


def test_a_delayed_warm_up_waits_before_it_rises():
    assert values(linear_warm_up(4, end=8.0, delay=3), 0, 2.9, 3, 4, 7, 9) == [0, 0, 0, 2, 8, 8]


def test_cyclical_starts_over_every_period():
    schedule = cyclical(10, end=2.0, rise=0.5)
    assert values(schedule, 0, 2.5, 5, 9.9) == [0, 1, 2, 2]
    assert values(schedule, 30, 32.5, 35, 39.9) == values(schedule, 0, 2.5, 5, 9.9)


def test_cyclical_with_a_rise_of_the_whole_period_is_a_saw_tooth():
    assert values(cyclical(4, rise=1.0), 0, 1, 2, 3, 4) == [0, 0.25, 0.5, 0.75, 0]


def test_a_number_is_a_constant_schedule_and_a_schedule_stays_itself():
    assert values(as_schedule(0), 0, 7) == [0, 0]
    schedule = linear_warm_up(3)
    assert as_schedule(schedule) is schedule


@pytest.mark.parametrize(
    "make",
    [
        lambda: constant(-0.1),
        lambda: as_schedule(-1),
        lambda: constant(math.nan),
        lambda: constant(math.inf),
        lambda: constant("1"),
        lambda: linear_warm_up(5, end=-1.0),
        lambda: cyclical(5, end=-1.0),
    ],
)
def test_a_negative_weight_is_refused(make):
    with pytest.raises(InputError, match="finite number of at least 0"):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear_warm_up(0), "epochs is 0; it must be above 0"),
        (lambda: linear_warm_up(5, delay=-2), "delay is -2; it must be at least 0"),
        (lambda: cyclical(-1), "period is -1; it must be above 0"),
        (lambda: cyclical(5, rise=0), "rise is 0; .*a fraction"),
        (lambda: cyclical(5, rise=1.5), r"rise is 1\.5; .*a fraction"),
    ],
)
def test_a_length_of_nothing_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
