"""Schedules are pure functions of the epoch."""

import math

import pytest

from pyrovae.errors import InputError
from pyrovae.schedules import as_schedule, chained, constant, cosine_decay, cyclical, linear_warm_up


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


def test_a_cosine_decay_rises_in_a_straight_line_then_falls_to_0_along_half_a_cosine():
    schedule = cosine_decay(8, 4.0, warm_up=2)
    assert values(schedule, 0, 0.5, 1, 2, 8, 9) == [0, 1, 2, 4, 0, 0]
    third = 2 + 6 / 3, 2 + 6 / 2, 2 + 2 * 6 / 3  # where the cosine is 1/2, 0 and -1/2
    assert values(schedule, *third) == pytest.approx([3, 2, 1])
    assert values(cosine_decay(8, 4.0), 0, 4, 8) == pytest.approx([4, 2, 0])
    assert values(cosine_decay(8, 4.0, warm_up=8), 4, 7, 8) == [2, 3.5, 0]


def test_chained_schedules_begin_at_times_of_their_own():
    schedule = chained([(2, linear_warm_up(4)), (1, constant(3.0)), (5, linear_warm_up(2))])
    assert values(schedule, 0, 1, 2, 2.5, 3, 4, 5, 100) == [0, 0.25, 3, 3, 0, 0.5, 1, 1]


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
        lambda: cosine_decay(5, -1.0),
        lambda: as_schedule(-1, "learning_rate"),
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
        (lambda: cosine_decay(0, 1.0), "epochs is 0; it must be above 0"),
        (lambda: cosine_decay(4, 1.0, warm_up=5), "warm_up is 5; .* at most epochs, 4"),
        (lambda: cosine_decay(4, 1.0, warm_up=-1), "warm_up is -1; .* at least 0"),
        (lambda: chained([]), "parts is empty; give at least one"),
        (lambda: chained([(0, constant(1))]), "the length of a schedule is 0; it must be above 0"),
        (lambda: cyclical(5, rise=0), "rise is 0; .*a fraction"),
        (lambda: cyclical(5, rise=1.5), r"rise is 1\.5; .*a fraction"),
    ],
)
def test_a_length_of_nothing_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
