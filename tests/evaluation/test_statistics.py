"""Statistics of importance weights and of Monte-Carlo means, against sums written out."""

import math
import warnings

import pytest
import torch

from pyrovae.evaluation.statistics import (
    data_std_error,
    importance_statistics,
    importance_weighted_bound,
    log_mean,
    mean_std_error,
    num_unreliable,
    std_error_of_draws,
    warn_if_unreliable,
)
from pyrovae.programs.log_weights import Scores


def test_error_and_effective_sample_size_are_those_of_the_weights():
    weights = torch.tensor([[0.1, 2.0], [0.4, 2.0], [0.5, 2.0], [1.0, 2.0]], dtype=torch.double)
    log_weights = weights.log() - 800  # e^-800 is 0: the logarithm matters
    found = importance_statistics(Scores(log_weights, log_weights, None), [1])
    mean = weights.mean(0)
    torch.testing.assert_close(found["log_px"], mean.log() - 800)
    torch.testing.assert_close(found["std_error"], weights.std(0) / mean / 4**0.5)
    torch.testing.assert_close(found["ess"], weights.sum(0) ** 2 / weights.square().sum(0))


def test_a_bound_uses_disjoint_groups_of_its_size():
    log_weights = torch.arange(7.0).double()[:, None]
    pair = math.log((1 + math.e) / 2)  # of log weights 0 and 1; the seventh is left over
    by_hand = (pair + (2 + pair) + (4 + pair)) / 3
    assert importance_weighted_bound(log_weights, 2).item() == pytest.approx(by_hand)


def test_means_and_their_errors():
    values = torch.tensor([[1.0, 2.0], [3.0, 6.0]], dtype=torch.double)
    torch.testing.assert_close(log_mean(values.log()).exp(), values.mean(0))
    torch.testing.assert_close(std_error_of_draws(values), values.std(0) / 2**0.5)
    assert std_error_of_draws(values[:1]).isnan().all()
    assert mean_std_error(torch.tensor([3.0, 4.0])) == 2.5
    assert data_std_error(torch.tensor([1.0, 3.0])) == pytest.approx(1.0)
    assert math.isnan(data_std_error(torch.tensor([1.0])))


def test_a_warning_counts_the_unreliable_data():
    khat = torch.tensor([0.1, 0.6, math.nan, math.inf])
    assert num_unreliable(khat, 100) == 2
    assert num_unreliable(khat, 5000) == 1
    with pytest.warns(
        UserWarning,
        match=r"0\.50, its limit for K = 100, for 2 of 4 data: they are wrong\. Use more samples",
    ):
        warn_if_unreliable(khat, 100, "they are wrong")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_unreliable(khat[:1], 100, "they are wrong")
