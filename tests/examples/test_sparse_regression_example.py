"""Sparse regression: the coefficients integrated out into one Gaussian of all targets, without a plate."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from one_copy import assert_like_pyro, evidence_of_all, trained
from pyro.infer import Trace_ELBO
from torch import nn

from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.objectives import ELBO


class SparseRegression(nn.Module):
    """A scale for each input; targets have a kernel of the scaled inputs. The target is the last column."""

    def __init__(self, inputs=2):
        super().__init__()
        self.loc = nn.Parameter(torch.full((inputs,), -0.5).double())
        self.log_scale = nn.Parameter(torch.zeros(inputs).double())

    def kernel(self, x, scales):
        scaled = scales.unsqueeze(-2) * x
        linear = scaled @ scaled.transpose(-1, -2)
        return linear + 0.3 * linear.square() + 0.25 * torch.eye(len(x)).double()

    def model(self, data):
        x, y = data[:, :-1], data[:, -1]
        zero = torch.zeros(2).double()
        scales = pyro.sample("scales", dist.LogNormal(zero, zero + 1.0).to_event(1))
        pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(y), self.kernel(x, scales)), obs=y)

    def guide(self, data):
        pyro.sample("scales", dist.LogNormal(self.loc, self.log_scale.exp()).to_event(1))


def table(num_data=6):
    x = torch.randn(num_data, 2).double()
    return torch.cat([x, 1.2 * x[:, :1] + 0.5 * torch.randn(num_data, 1)], 1)


def log_evidence(pair, data):
    """log p(y), by quadrature over both scales."""
    grid = torch.linspace(-6, 5, 111).double()
    logs = torch.cartesian_prod(grid, grid)
    kernels = torch.stack([pair.kernel(data[:, :-1], scales) for scales in logs.exp()])
    given = dist.MultivariateNormal(torch.zeros(len(data)).double(), kernels).log_prob(data[:, -1])
    prior = dist.Normal(torch.zeros(2).double(), 1.0).log_prob(logs).sum(1)
    return ((given + prior).logsumexp(0) + 2 * (grid[1] - grid[0]).log()).item()


def test_bounds_and_gradients_are_those_of_pyro():
    assert_like_pyro(ELBO(), Trace_ELBO(), SparseRegression(), table())


def test_it_is_scored_as_a_whole_alone():
    pair, data = SparseRegression(), table()
    with pytest.raises(InputError, match="joint=True"):
        marginal_likelihood(pair, data, num_samples=40)
    value, std_error, _ = evidence_of_all(pair, data, num_samples=20_000)
    assert abs(value - log_evidence(pair, data)) < 4.5 * std_error + 1e-3
    assert std_error < 0.1


def test_it_trains_on_all_data_at_once_alone():
    pair, data = SparseRegression(), table()
    history = trained(pair, data, batch_size=6, epochs=60)
    assert max(history["elbo"][-10:]) > history["elbo"][0] - 1
    assert sum(history["elbo"][-10:]) / 10 < log_evidence(pair, data) / 6 + 0.1
    with pytest.raises(InputError, match="'y'"):
        trained(pair, data, batch_size=3, epochs=1)
