"""The weight of a label: a mean over the labelled data, and a constraint that waits and rises."""

import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.semi_supervised import constraint_schedule, per_label


def test_a_weight_is_that_of_a_mean_over_the_labelled():
    y = torch.cat([torch.arange(4) % 2, torch.full((16,), -1)])
    log_p = torch.rand(20)
    of_fit = per_label(3.0, y) * log_p[y >= 0].sum() / 20  # fit divides sums by the number of all data
    torch.testing.assert_close(of_fit, 3.0 * log_p[y >= 0].mean())


def test_constraints_wait_and_rise():
    weight = constraint_schedule(8.0, delay=2, warm_up=4)
    assert [weight(epoch) for epoch in (0, 2, 3, 6, 9)] == [0, 0, 2, 8, 8]
    step = constraint_schedule(8.0, delay=2)
    assert [step(epoch) for epoch in (0, 1.9, 2, 9)] == [0, 0, 8, 8]
    assert constraint_schedule(8.0)(0) == 8


@pytest.mark.parametrize("name", ["weight", "delay", "warm_up"])
def test_negative_numbers_are_refused(name):
    with pytest.raises(InputError, match=f"{name} .*-1.0.*at least 0"):
        constraint_schedule(**({"weight": 1.0} | {name: -1.0}))


def test_a_negative_weight_of_labels_is_refused():
    with pytest.raises(InputError, match=r"-0.1.*at least 0"):
        per_label(-0.1, torch.zeros(3))
