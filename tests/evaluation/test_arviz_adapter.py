"""k-hat against known tails, and both of ArviZ's interfaces."""

import math
import sys
import types

import pytest
import torch

from pyrovae.evaluation import MarginalLikelihood
from pyrovae.evaluation.arviz_adapter import pareto_khat


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


def test_arviz_1_is_given_the_negative_log_weights(monkeypatch):
    given = []

    def psislw(log_likelihood):
        given.append(log_likelihood)
        return -log_likelihood, log_likelihood.min(-1)

    base = types.ModuleType("arviz_stats.base")
    base.array_stats = types.SimpleNamespace(psislw=psislw)
    package = types.ModuleType("arviz_stats")
    package.base = base
    monkeypatch.setitem(sys.modules, "arviz_stats", package)
    monkeypatch.setitem(sys.modules, "arviz_stats.base", base)
    log_weights = torch.randn(30, 4).double()
    khat = pareto_khat(log_weights)
    assert torch.equal(torch.stack([torch.as_tensor(row) for row in given]), -log_weights.T)
    assert torch.equal(khat, -log_weights.amax(0))


def test_arviz_gets_the_values_with_named_dimensions():
    names = ("log_px", "std_error", "khat", "ess", "datum_elbo", "datum_elbo_std_error")
    columns = {name: torch.randn(3).double() for name in names} | {
        "repeated": torch.tensor([True, False, False])
    }
    bounds = {1: torch.randn(3).double(), 10: torch.randn(3).double()}
    result = MarginalLikelihood(**columns, bounds=bounds, num_samples=20)
    group = result.to_arviz()["marginal_likelihood"]
    for name, values in columns.items():
        assert group[name].dims == ("datum",)
        assert group[name].values.tolist() == values.tolist()
    assert set(group["bound"].dims) == {"bound_samples", "datum"}
    for size, values in bounds.items():
        assert group["bound"].sel(bound_samples=size).values.tolist() == values.tolist()
    assert group["datum"].values.tolist() == [0, 1, 2]
