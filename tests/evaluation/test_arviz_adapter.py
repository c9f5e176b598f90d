"""Results as ArviZ's data structure."""

import torch

from pyrovae.evaluation import MarginalLikelihood


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
