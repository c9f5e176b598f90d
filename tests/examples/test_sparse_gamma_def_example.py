"""A deep exponential family: gamma weights of all data, gamma latents of each datum, Poisson counts."""

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


class DEF(nn.Module):
    """w, z -> x. The guide has parameters for each datum, or a network if there is no number of data."""

    def __init__(self, num_data=None):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 0.0]))  # log shape and log rate
        self.z = nn.Parameter(torch.zeros(num_data, 2)) if num_data else None
        self.encoder = None if num_data else nn.Linear(1, 2)

    def model(self, x):
        w = pyro.sample("w", dist.Gamma(1.5, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, 1.0))
            pyro.sample("obs", dist.Poisson(z * w), obs=x[:, 0])

    def guide(self, x):
        pyro.sample("w", dist.Gamma(*self.w.exp()))
        shape, rate = (self.encoder(x.log1p()) if self.z is None else self.z).exp().unbind(1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(shape, rate))


def counts():
    return torch.tensor([[3.0], [0.0], [5.0], [1.0]])


def log_evidence(x):
    """log p(x): given w each count is negative binomial; w by quadrature."""
    w = torch.linspace(1e-4, 25, 20_001, dtype=torch.double)
    given = dist.GammaPoisson(torch.tensor(2.0).double(), 1 / w[:, None]).log_prob(x[:, 0].double()).sum(1)
    prior = dist.Gamma(torch.tensor(1.5).double(), 1.0).log_prob(w)
    return ((given + prior).logsumexp(0) + (w[1] - w[0]).log()).item()


@pytest.mark.parametrize("make", [lambda: DEF(4), DEF], ids=["per datum", "amortised"])
def test_bounds_and_gradients_are_those_of_pyro(make):
    assert_like_pyro(ELBO(), Trace_ELBO(), make(), counts())


@pytest.mark.parametrize("make", [lambda: DEF(4), DEF], ids=["per datum", "amortised"])
def test_it_is_scored_as_a_whole(make):
    pair, x = make(), counts()
    with pytest.raises(InputError, match=r"'w'.*joint=True"):
        marginal_likelihood(pair, x, num_samples=50)
    trained(pair, x, batch_size=4, epochs=150)
    value, std_error, _ = evidence_of_all(pair, x, num_samples=20_000)
    assert abs(value - log_evidence(x)) < 4.5 * std_error + 1e-3
    assert std_error < 0.1


def test_it_trains_in_minibatches_only_where_the_guide_is_amortised():
    x = counts().repeat(10, 1)
    history = trained(DEF(), x, batch_size=8, epochs=20)
    assert history["elbo"][-1] > history["elbo"][0]
    with pytest.raises(InputError, match="'z'"):
        trained(DEF(40), x, batch_size=8, epochs=1)
