"""k-hat against known tails, and against ArviZ, which fits one column at a time."""

import math
import warnings

import numpy as np
import pytest
import torch

from pyrovae.evaluation import pareto
from pyrovae.evaluation.pareto import pareto_khat


@pytest.mark.parametrize("shape", [0.3, 0.5, 0.9])
def test_khat_is_the_shape_of_a_pareto_tail(shape):
    # u^-k has, above any threshold, a generalised Pareto tail of shape k exactly.
    uniform = torch.rand(20_000, 40, generator=torch.Generator().manual_seed(0)).double()
    khat = pareto_khat(-shape * uniform.log())
    # The estimate's prior draws it to 1/2 with the weight of 10 of the tail's 3 sqrt(K) draws.
    tail = 3 * math.sqrt(20_000)
    expected = (tail * shape + 10 * 0.5) / (tail + 10)
    # The maximum-likelihood estimate has standard deviation (1 + k) / sqrt(tail).
    assert khat.std().item() == pytest.approx((1 + shape) / math.sqrt(tail), rel=0.5)
    assert khat.mean().item() == pytest.approx(expected, abs=4 * khat.std().item() / math.sqrt(40) + 0.01)


def test_khat_does_not_change_when_the_weights_are_scaled_or_reordered():
    log_weights = torch.randn(500, 3).double()
    khat = pareto_khat(log_weights)
    torch.testing.assert_close(pareto_khat(log_weights - 1000), khat, atol=1e-6, rtol=0)
    torch.testing.assert_close(pareto_khat(log_weights[torch.randperm(500)]), khat, atol=1e-6, rtol=0)


def test_every_column_has_its_own_khat():
    uniform = torch.rand(2000, 2).double()
    columns = torch.stack([-0.2 * uniform[:, 0].log(), -1.5 * uniform[:, 1].log()], 1)
    low, high = pareto_khat(columns).tolist()
    assert low < 0.5 < 1.1 < high
    assert pareto_khat(columns[:, 1:]).item() == pytest.approx(high)


@pytest.mark.parametrize("num_samples", [1, 2, 29])
def test_too_few_weights_have_no_khat(num_samples):
    khat = pareto_khat(torch.randn(num_samples, 3))
    assert khat.shape == (3,)
    assert khat.isnan().all()


def test_thirty_weights_are_enough():
    assert pareto_khat(torch.randn(30, 3)).isfinite().all()


def test_equal_weights_have_no_khat_and_do_not_take_it_from_others():
    log_weights = torch.randn(200, 3).double()
    log_weights[:, 1] = -7.0
    assert pareto_khat(log_weights).isnan().tolist() == [False, True, False]


def test_weights_that_many_draws_share_at_the_top_have_no_tail():
    log_weights = torch.randn(200, 2).double()
    log_weights[:, 0].clamp_(max=0.0)
    assert pareto_khat(log_weights).isnan().tolist() == [True, False]


def test_a_single_draw_that_outweighs_all_others_is_not_taken_for_harmless():
    log_weights = torch.randn(200, 1).double()
    log_weights[17] = 1000.0
    assert pareto_khat(log_weights).item() > 0.7


def by_arviz(log_weights):
    """ArviZ's k-hat of each column; NaN where it finds no tail."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            from arviz_stats.base import array_stats
        except ImportError:
            from arviz.stats import psislw

            found = [float(psislw(column.numpy())[1]) for column in log_weights.T]
        else:  # ArviZ 1.x takes log likelihoods for leave-one-out, and raises if there is no tail
            found = []
            for column in log_weights.T:
                try:
                    found.append(float(array_stats.psislw(-column.numpy())[1]))
                except ValueError:
                    found.append(math.nan)
    khat = torch.tensor(found, dtype=torch.float64)
    return khat.where(khat.isfinite(), torch.nan)


def columns(num_samples, kind):
    """Columns of log weights `(K, 40)` of some kind."""
    generator = torch.Generator().manual_seed(num_samples)
    normal = torch.randn(num_samples, 40, generator=generator).double()
    shapes = torch.linspace(0.05, 3.0, 40)
    uniform = torch.rand(num_samples, 40, generator=generator).double()
    return {
        "normal": normal,
        "pareto": -shapes * uniform.log(),
        "steep": 30 * normal,  # one weight has nearly all, and most of the tail is 0 beside it
        "bounded": -uniform,
        "tied": (4 * normal).round() / 4,
        "impossible": normal.masked_fill(uniform < 0.7, -math.inf),
        "far from 0": normal - 3e5,
        "tied at the threshold": normal.clamp(min=normal.quantile(0.9, 0)),
    }[kind]


KINDS = (
    "normal", "pareto", "steep", "bounded", "tied", "impossible", "far from 0", "tied at the threshold",
)  # fmt: skip


@pytest.mark.parametrize("num_samples", [30, 37, 100, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_khat_is_that_of_arviz(kind, num_samples):
    log_weights = columns(num_samples, kind)
    khat = pareto_khat(log_weights)
    expected = by_arviz(log_weights)
    # By the definition: not known with fewer than five values in the tail; infinite, not unknown, where
    # fewer than five draws have more than half of the weight.
    known = khat.isfinite()
    torch.testing.assert_close(khat[known], expected[known], atol=1e-10, rtol=1e-10)
    for column in (~known).nonzero().flatten().tolist():
        tail = (
            log_weights[:, column]
            .sort(descending=True)
            .values[: math.ceil(min(num_samples / 5, 3 * num_samples**0.5))]
        )
        unfitted = expected[column].isnan() or len(tail.unique()) < 5
        weights = log_weights[:, column].softmax(0).sort(descending=True).values
        assert unfitted
        assert khat[column].isinf() == bool(weights[:4].sum() > 0.5 and len(tail.unique()) > 1)
    assert known.any() or kind.startswith("tied")


def test_columns_that_have_no_weights_have_no_khat():
    log_weights = torch.randn(100, 4).double()
    log_weights[:, 0], log_weights[3, 1], log_weights[3, 2] = -math.inf, math.inf, math.nan
    khat = pareto_khat(log_weights)
    assert khat.isnan().tolist() == [True, True, True, False]
    assert khat[3] == pytest.approx(by_arviz(log_weights[:, 3:]).item(), abs=1e-10)


def test_khat_does_not_depend_on_how_many_columns_are_fitted_at_once(monkeypatch):
    log_weights = columns(100, "normal")
    together = pareto_khat(log_weights)
    monkeypatch.setattr(pareto, "_AT_ONCE", 3 * 20 * 34)
    torch.testing.assert_close(pareto_khat(log_weights), together, atol=1e-13, rtol=0)
