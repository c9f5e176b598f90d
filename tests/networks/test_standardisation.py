"""Standardisation against the mean and the standard deviation of each column."""

import warnings

import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.networks import MLP, Standardisation, Standardised


def standardisation_of(x, observed=None):
    standardisation = Standardisation(x.shape[1])
    standardisation.start_at(x, observed)
    return standardisation


def test_at_first_data_stay_as_they_are():
    x = torch.randn(5, 3)
    assert torch.equal(Standardisation(3)(x), x)
    assert torch.equal(Standardisation(3).original(x), x)


def test_columns_have_mean_0_and_scale_1_and_come_back_in_their_own_units():
    x = torch.randn(200, 3).double() * torch.tensor([1e-4, 1.0, 1e5]) + torch.tensor([3.0, -2.0, 7e5])
    standardisation = Standardisation(3).double()
    standardisation.start_at(x)
    z = standardisation(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(z.square().mean(0), torch.ones(3).double())
    torch.testing.assert_close(standardisation.original(z), x)


def test_a_network_sees_standardised_data():
    x, network = torch.randn(50, 3) * 100 + 7, MLP(3, 2, hidden=())
    standardisation = standardisation_of(x)
    both = Standardised(network, standardisation)
    assert both.out_shape == (2,)
    torch.testing.assert_close(both(x), network((x - x.mean(0)) / x.std(0, correction=0)))


def test_shift_and_scale_are_state_and_are_not_trained():
    standardisation = Standardisation(3)
    assert not list(standardisation.parameters())
    assert [*standardisation.state_dict()] == ["shift", "scale"]


@pytest.mark.parametrize("by_mask", [True, False])
def test_missing_values_are_left_out(by_mask):
    known = torch.tensor([[True, True], [True, False], [True, True], [False, True]])
    x = torch.tensor([[1.0, 10.0], [3.0, 0.0], [8.0, 30.0], [0.0, 20.0]])
    x = x.where(known, torch.tensor(1e9 if by_mask else torch.nan))
    found = standardisation_of(x, known if by_mask else None)
    # 1, 3, 8 have the mean 4 and the variance (9 + 1 + 16) / 3; 10, 30, 20 have 20 and 200 / 3.
    torch.testing.assert_close(found.shift, torch.tensor([4.0, 20.0]))
    torch.testing.assert_close(found.scale, torch.tensor([26 / 3, 200 / 3]).sqrt())


@pytest.mark.parametrize(
    "column",
    [
        torch.full((40,), 3.0),
        torch.zeros(40),
        0.1 + 1e-9 * torch.randn(40, dtype=torch.float64),  # constant but for rounding to 32 bits
        torch.full((40,), torch.nan),
    ],
)
def test_a_constant_column_has_scale_1_and_is_named(column):
    x = torch.stack([torch.randn(40), column.float(), torch.randn(40)], 1)
    with pytest.warns(UserWarning, match=r"column 1 is constant .* leave it out") as caught:
        found = standardisation_of(x)
    assert len(caught) == 1
    assert found.scale[1] == 1
    assert found(x).nan_to_num().abs().max() < 10


def test_many_constant_columns_are_counted():
    with pytest.warns(UserWarning, match=r"columns 0, 1, .*, 9 and 2 others are constant"):
        standardisation_of(torch.ones(3, 12))


def test_a_small_spread_beside_a_large_mean_is_no_constant():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = standardisation_of(1000 + 0.01 * torch.randn(500, 1))
    assert 0.009 < found.scale.item() < 0.011


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(4, 2), r"shape \(4, 2\); expected \(N, 3\)"),
        (torch.zeros(0, 3), "N at least 1"),
        (torch.tensor([[torch.inf, 1.0, 2.0]]), "infinite values"),
    ],
)
def test_data_that_cannot_be_standardised_are_refused(x, message):
    with pytest.raises(InputError, match=message):
        Standardisation(3).start_at(x)
