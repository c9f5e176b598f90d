"""The causal effect VAE of Pyro: the guide observes treatment and outcome at sites of its own."""

import re

import pyro
import pyro.distributions as dist
import torch
from one_copy import assert_evidence, assert_like_pyro, one_copy_at_a_time, trained
from pyro.contrib.cevae import TraceCausalEffect_ELBO
from pyro.infer import Trace_ELBO
from torch import nn

from pyrovae.evaluation import kl_decomposition
from pyrovae.objectives import ELBO


class CEVAE(nn.Module):
    """z -> x, t, y with t -> y. The columns of a datum are features, treatment and outcome."""

    def __init__(self):
        super().__init__()
        self.x_net, self.t_net, self.y_net = nn.Linear(1, 2), nn.Linear(1, 1), nn.Linear(2, 1)
        self.q_t, self.q_y, self.q_z = nn.Linear(2, 1), nn.Linear(3, 1), nn.Linear(4, 2)

    def model(self, data):
        x, t, y = data[:, :2], data[:, 2], data[:, 3]
        with pyro.plate("data", len(data)):
            z = pyro.sample("z", dist.Normal(data.new_zeros(len(data), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.x_net(z), 0.8).to_event(1), obs=x)
            pyro.sample("t", dist.Bernoulli(logits=self.t_net(z).squeeze(-1)), obs=t)
            both = torch.cat([z, t[:, None].expand_as(z)], -1)
            pyro.sample("y", dist.Normal(self.y_net(both).squeeze(-1), 0.9), obs=y)

    def guide(self, data):
        x, t, y = data[:, :2], data[:, 2], data[:, 3]
        observed = {"is_auxiliary": True}
        with pyro.plate("data", len(data)):
            pyro.sample("t", dist.Bernoulli(logits=self.q_t(x).squeeze(-1)), obs=t, infer=observed)
            outcome = self.q_y(data[:, :3]).squeeze(-1)
            pyro.sample("y", dist.Normal(outcome, 1.0), obs=y, infer=observed)
            loc, scale = self.q_z(data).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()).to_event(1))


def patients(num_data=5):
    x, t, y = torch.randn(num_data, 2), torch.rand(num_data, 1).round(), torch.randn(num_data, 1)
    return torch.cat([x, t, y], 1)


def test_the_guides_observed_sites_are_left_out_of_the_evidence():
    pair, x = CEVAE(), patients()
    result = assert_evidence(pair, x, reference=one_copy_at_a_time(pair, x, nodes=20))
    assert re.search("'?t'?, '?y'?", str(result))  # the result says so


def test_they_train_as_in_pyros_objectives():
    pair, x = CEVAE(), patients()
    # Trace_ELBO has a score function's gradient at the guide's observed t, which nobody draws.
    of = [v for name, v in pair.named_parameters() if not name.startswith("q_t")]
    assert_like_pyro(ELBO(), Trace_ELBO(), pair, x, of=of)
    history = trained(pair, patients(40), epochs=10, objective=TraceCausalEffect_ELBO())
    assert history["loss"][-1] < history["loss"][0]
    assert_evidence(pair, x, reference=one_copy_at_a_time(pair, x, nodes=20))


def test_they_have_no_part_in_the_kl():
    pair, x = CEVAE(), patients()
    loc, scale = pair.q_z(x).detach().chunk(2, -1)
    q = dist.Normal(loc, 0.5 + scale.sigmoid())
    exact = torch.distributions.kl_divergence(q, dist.Normal(0.0, 1.0)).mean()
    result = kl_decomposition(pair, x, num_samples=2000)
    assert abs(result.average_kl - exact) < 4.5 * result.std_error["average_kl"] + 1e-4
