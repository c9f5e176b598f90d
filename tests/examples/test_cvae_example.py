"""A conditional VAE: the prior network and the decoder see a given part of each datum (Pyro's CVAE)."""

import pyro
import pyro.distributions as dist
import torch
from one_copy import one_copy_at_a_time, trained
from pyro.infer import Trace_ELBO
from torch import nn

from pyrovae.evaluation import marginal_likelihood
from pyrovae.objectives import ELBO
from pyrovae.programs import Pair


class CVAE(nn.Module):
    """p(z | c) p(x | z, c), where c is a quarter of an image and x the rest."""

    def __init__(self):
        super().__init__()
        self.baseline, self.prior_net = nn.Linear(2, 4), nn.Linear(2, 4)
        self.decoder, self.recognition = nn.Linear(2, 4), nn.Linear(6, 4)

    def model(self, x, c):
        pyro.module("generation", self)
        with pyro.plate("data", len(x)):
            loc, scale = self.prior_net(c).chunk(2, -1)
            z = pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()).to_event(1))
            logits = self.baseline(c) + self.decoder(z)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x, c):
        with pyro.plate("data", len(x)):
            loc, scale = self.recognition(torch.cat([x, c], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()).to_event(1))


def images(num_data=4):
    return torch.rand(num_data, 4).round(), torch.rand(num_data, 2).round()


def test_its_bound_is_that_of_pyro(param_store):
    pair, (x, c) = CVAE(), images()
    losses = []
    for objective in (ELBO(), Trace_ELBO()):
        torch.manual_seed(0)
        losses.append(objective.differentiable_loss(pair.model, pair.guide, x, c=c))
    torch.testing.assert_close(*losses)


def test_the_evidence_given_the_condition_is_that_of_one_copy_at_a_time(param_store):
    pair, (x, c) = CVAE(), images()
    reference = one_copy_at_a_time(pair, x, c)
    result = marginal_likelihood(pair, x, given={"c": c}, num_samples=2000)
    assert ((result.log_px - reference.log_px).abs() < 4.5 * result.std_error + 1e-4).all()


def test_it_trains_given_the_condition(param_store):
    pair, (x, c) = CVAE(), images(40)
    history = trained(pair, x, given={"c": c}, epochs=15)
    assert history["elbo"][-1] > history["elbo"][0]


def test_a_condition_within_the_data_works_too(param_store):
    """Until then: the condition stands in further columns of the data, and the programs take them apart."""
    pair, (x, c) = CVAE(), images()
    model = lambda both: pair.model(both[:, :4], both[:, 4:])  # noqa: E731
    guide = lambda both: pair.guide(both[:, :4], both[:, 4:])  # noqa: E731
    joined, both = Pair(model, guide), torch.cat([x, c], -1)
    reference = one_copy_at_a_time(joined, both)
    result = marginal_likelihood(joined, both, num_samples=2000)
    assert ((result.log_px - reference.log_px).abs() < 4.5 * result.std_error + 1e-4).all()
