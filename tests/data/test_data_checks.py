"""Data that are refused before training or evaluation."""

import math

import pytest
import torch

from pyrovae.compute.devices import seeded
from pyrovae.data.checks import check_data, check_seed
from pyrovae.errors import InputError, check_counts


def test_sound_data_pass():
    check_data(torch.rand(3, 2), torch.zeros(3))
    check_data(torch.rand(3))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([1.0], "the data are a list, not a tensor .*use torch.as_tensor"),
        (torch.tensor(3.0), r"shape \(\); expected at least one datum, \(N, \*x_shape\)"),
        (torch.rand(0, 3), r"shape \(0, 3\); expected at least one datum"),
        (torch.rand(3, 0), r"shape \(3, 0\)"),
        (torch.zeros(3, 2, dtype=torch.uint8), r"type torch\.uint8.*x\.float\(\) / 255"),
        (torch.tensor([[1.0], [math.nan], [math.inf]]), "2 of 3 data .*the first is datum 1"),
    ],
    ids=["list", "number", "empty", "no pixels", "bytes", "nan"],
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


@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "int32", "uint16", "uint32", "uint64"])
def test_classes_of_any_integer_type_pass(kind):
    check_data(torch.rand(3, 2), torch.tensor([0, 1, 100]).to(getattr(torch, kind)))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.tensor([0, 1, 2**64 - 1], dtype=torch.uint64), f"go up to {2**64 - 1}, beyond 64-bit"),
        (torch.tensor([0, 1, 2**63], dtype=torch.uint64), f"go up to {2**63}, beyond 64-bit"),
        (torch.tensor([0, 1, -2], dtype=torch.int8), "go down to -2"),
    ],
    ids=["unlabelled as unsigned", "large", "negative"],
)
def test_classes_beyond_64_bits_are_not_taken_for_unlabelled(y, message):
    with pytest.raises(InputError, match=message):
        check_data(torch.rand(3, 2), y, unlabelled=True)


@pytest.mark.parametrize("seed", [1.5, 1.0, "1", None, -1, 2**32])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(InputError, match="the seed is"):
        check_seed(seed)


@pytest.mark.parametrize("seed", [1.5, "1", 2**64, -(2**63) - 1])
def test_a_seed_of_draws_fits_into_64_bits(seed):
    before = torch.get_rng_state()
    with pytest.raises(InputError, match=r"the seed is .*64 bits"), seeded(seed):
        pass
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("count", [2**63, 10**30, 1.5, 0, True])
def test_a_count_fits_into_64_bits(count):
    with pytest.raises(InputError, match="latent_dim is"):
        check_counts(latent_dim=count)
