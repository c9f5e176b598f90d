"""Eight schools: two global latents, an effect of each school, and a data set that is scored as a whole."""

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

# Effects and their standard errors (Rubin 1981).
SCHOOLS = torch.tensor(
    [[28.0, 15], [8, 10], [-3, 16], [7, 11], [-1, 9], [1, 11], [18, 10], [12, 18]], dtype=torch.double
)


class EightSchools(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu = nn.Parameter(torch.tensor([6.0, 4.0], dtype=torch.double))
        self.tau = nn.Parameter(torch.tensor([1.6, 0.9], dtype=torch.double))
        self.eta = nn.Parameter(torch.tensor([[0.0, 1.0]], dtype=torch.double).repeat(8, 1))

    def model(self, data):
        y, sigma = data.unbind(1)
        mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 10.0))
        tau = pyro.sample("tau", dist.LogNormal(y.new_tensor(1.5), 1.0))
        with pyro.plate("schools", len(data)):
            eta = pyro.sample("eta", dist.Normal(y.new_tensor(0.0), 1.0))
            pyro.sample("obs", dist.Normal(mu + tau * eta, sigma), obs=y)

    def guide(self, data):
        pyro.sample("mu", dist.Normal(self.mu[0], self.mu[1]))
        pyro.sample("tau", dist.LogNormal(self.tau[0], self.tau[1]))
        with pyro.plate("schools", len(data)):
            pyro.sample("eta", dist.Normal(self.eta[: len(data), 0], self.eta[: len(data), 1].abs()))


def log_evidence(data):
    """log p(y): given tau the effects and mu are Gaussian; tau by quadrature."""
    y, sigma = data.unbind(1)
    grid = torch.linspace(-4, 7, 2001, dtype=torch.double)  # of log tau
    tau = grid.exp()[:, None, None]
    eye = torch.eye(8, dtype=torch.double)
    covariance = eye * (sigma.square() + tau.square()) + 100.0
    given = dist.MultivariateNormal(torch.zeros(8, dtype=torch.double), covariance).log_prob(y)
    prior = dist.Normal(torch.tensor(1.5, dtype=torch.double), 1.0).log_prob(grid)
    return ((given + prior).logsumexp(0) + torch.tensor(11 / 2000).log()).item()


def test_bounds_and_gradients_are_those_of_pyro():
    assert_like_pyro(ELBO(), Trace_ELBO(), EightSchools(), SCHOOLS)


def test_it_is_scored_as_a_whole_and_trains_up_to_the_evidence():
    pair = EightSchools()
    with pytest.raises(InputError, match=r"'(mu|tau)'.*joint=True"):
        marginal_likelihood(pair, SCHOOLS, num_samples=50)
    exact = log_evidence(SCHOOLS)
    value, std_error, _ = evidence_of_all(pair, SCHOOLS, num_samples=20_000)
    assert abs(value - exact) < 4.5 * std_error + 1e-3
    assert std_error < 0.1
    history = trained(pair, SCHOOLS, batch_size=8, epochs=100)
    assert max(history["elbo"][-20:]) < exact / 8 + 0.3
    value, std_error, _ = evidence_of_all(pair, SCHOOLS, num_samples=20_000)
    assert abs(value - exact) < 4.5 * std_error + 1e-3
