"""Data that are refused before training or evaluation."""

import math

import pytest
import torch

from pyrovae.data.checks import check_data
from pyrovae.errors import InputError


def test_sound_data_pass():
    check_data(torch.rand(3, 2), torch.zeros(3))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([1.0], "the data are a list, not a tensor .*use torch.as_tensor"),
        (torch.rand(3), r"shape \(3,\); expected at least one datum, \(N, \*x_shape\)"),
        (torch.rand(0, 3), r"shape \(0, 3\); expected at least one datum"),
        (torch.rand(3, 0), r"shape \(3, 0\)"),
        (torch.zeros(3, 2, dtype=torch.uint8), r"type torch\.uint8.*x\.float\(\) / 255"),
        (torch.tensor([[1.0], [math.nan], [math.inf]]), "2 of 3 data .*the first is datum 1"),
    ],
    ids=["list", "numbers", "empty", "no pixels", "bytes", "nan"],
)
def test_data_that_no_model_can_use_are_refused(x, message):
    with pytest.raises(InputError, match=message):
        check_data(x)


def test_classes_must_be_as_many_as_the_data():
    with pytest.raises(InputError, match="3 data and 2 classes"):
        check_data(torch.rand(3, 2), torch.zeros(2))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.zeros(3, 1, dtype=torch.long), r"shape \(3, 1\); .*squeeze\(1\) on a column"),
        (torch.eye(3, dtype=torch.long), r"shape \(3, 3\); .*argmax\(1\) on one-hot rows"),
        (torch.tensor([0, -1, -1]), "2 of 3 classes are -1, unlabelled"),
    ],
    ids=["column", "one-hot", "unlabelled"],
)
def test_classes_that_are_not_one_known_number_each_are_refused(y, message):
    with pytest.raises(InputError, match=message):
        check_data(torch.rand(3, 2), y)


def test_unlabelled_data_pass_where_they_may_and_real_values_everywhere():
    check_data(torch.rand(3, 2), torch.tensor([0, -1, -1]), unlabelled=True)
    check_data(torch.rand(3, 2), torch.tensor([0.5, -1.0, -2.0]))
    check_data(torch.rand(3, 2), torch.rand(3, 4))
