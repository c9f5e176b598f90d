"""Splits into training and test data, and choices of labelled data."""

import numpy as np
import pytest
import torch

from pyrovae.data import labels_per_class, load, stratified_split
from pyrovae.errors import InputError

pytestmark = pytest.mark.usefixtures("global_state_stays_put")


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.37, 0.8])
def test_stratified_split(fraction):
    y = torch.tensor([0] * 57 + [1] * 20 + [4] * 11)
    train, test = stratified_split(y, fraction, seed=3)
    assert train.dtype == test.dtype == torch.int64
    assert sorted(train.tolist() + test.tolist()) == list(range(88))
    for part, share in ((train, 1 - fraction), (test, fraction)):
        for label in (0, 1, 4):
            assert abs((y[part] == label).sum() - share * (y == label).sum()) <= 1
    again, other = stratified_split(y, fraction, seed=3), stratified_split(y, fraction, seed=4)
    assert torch.equal(test, again[1])
    assert not torch.equal(test, other[1])
    assert not torch.equal(train, train.sort().values)


def test_split_without_labels():
    train, test = stratified_split(None, 0.25, n=20)
    assert len(test) == 5
    assert sorted(torch.cat([train, test]).tolist()) == list(range(20))
    with pytest.raises(InputError, match="needs n"):
        stratified_split(None)


def test_split_errors():
    for fraction in (0, 1, -0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match=f"test_fraction is {fraction}"):
            stratified_split([0, 0, 1, 1], fraction)
    with pytest.raises(InputError, match=r"3 data cannot be split.*each class has a single member"):
        stratified_split([0, 1, 7])
    with pytest.raises(
        InputError, match=r"^one sample cannot .*: no datum is left for training\. Give more"
    ):
        stratified_split(None, n=1)
    with pytest.raises(InputError, match="0 data cannot be split"):
        stratified_split(None, n=0)


@pytest.mark.parametrize(
    ("y", "fraction", "num_test"),
    [
        ([0] * 20 + [1], 0.2, 5),  # ceil(0.2 * 21)
        ([0, 1, 2, 3, 4] * 3, 0.2, 3),  # fewer test data than classes
        ([0, 0, 1, 1], 0.2, 1),
        ([0, 0, 1, 1], 0.9, 2),  # one of each class stays
        ([0, 0, 7], 0.5, 1),  # only one of class 0 can go
    ],
)
def test_classes_too_small_for_a_share_keep_a_datum_for_training(y, fraction, num_test):
    y, chosen = torch.tensor(y), set()
    for seed in range(20):
        train, test = stratified_split(y, fraction, seed)
        assert sorted(train.tolist() + test.tolist()) == list(range(len(y)))
        assert set(y[train].tolist()) == set(y.tolist())
        assert len(test) == num_test
        chosen |= set(test.tolist())
    several = [i for i, label in enumerate(y) if (y == label).sum() > 1]
    assert chosen == set(several), "any datum of a class with more than one can be tested"


def test_labels_per_class():
    y = load("digits").y_train
    few, more = labels_per_class(y, 3, seed=1), labels_per_class(y, 10, seed=1)
    assert few.dtype == torch.int64
    assert torch.equal(few, few.sort().values)
    assert torch.bincount(y[few]).tolist() == [3] * 10
    assert len(set(more.tolist())) == 100
    assert set(few.tolist()) < set(more.tolist())
    assert torch.equal(few, labels_per_class(y, 3, seed=1))
    assert not torch.equal(few, labels_per_class(y, 3, seed=2))
    assert labels_per_class(np.array([5, 2, 5, 2]), 2).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("per_class", [0, 3])
def test_labels_per_class_errors(per_class):
    with pytest.raises(InputError, match=f"per_class is {per_class}, but class 1 has 2 members"):
        labels_per_class(torch.tensor([1, 1, 2, 2, 2]), per_class)
