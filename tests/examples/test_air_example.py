"""Attend, infer, repeat: a row of objects, each present or not, found by a recurrent guide."""

import pyro
import pyro.distributions as dist
import torch
from one_copy import assert_evidence, assert_like_pyro, one_copy_at_a_time, trained, unless_refused
from pyro.infer import Trace_ELBO
from torch import nn

from pyrovae.objectives import ELBO, ScoreFunctionELBO

STEPS = 2


class AIR(nn.Module):
    """An object is a bump at a place; once no object comes, none follows."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRUCell(3 + 2, 4), nn.Linear(4, 3)
        self.height = nn.Parameter(torch.tensor(1.5))

    def model(self, x):
        pyro.module("air", self)
        with pyro.plate("data", len(x)):
            present, canvas = x.new_ones(len(x)), torch.zeros_like(x)
            for t in range(STEPS):
                present = pyro.sample(f"z_pres_{t}", dist.Bernoulli(0.6 * present))
                prior = dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1).mask(present)
                where = pyro.sample(f"z_where_{t}", prior)
                bump = self.height * (-0.2 * (torch.arange(3.0) - 1 - where).square()).exp()
                canvas = canvas + present.unsqueeze(-1) * bump
            pyro.sample("x", dist.Normal(canvas, 0.8).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("air", self)
        with pyro.plate("data", len(x)):
            present, where, h = x.new_ones(len(x)), x.new_zeros(len(x), 1), x.new_zeros(len(x), 4)
            for t in range(STEPS):
                h = self.rnn(torch.cat([x, present.unsqueeze(-1), where], -1), h)
                logit, loc, scale = self.out(h).chunk(3, -1)
                odds = logit.squeeze(-1).sigmoid() * present
                present = pyro.sample(f"z_pres_{t}", dist.Bernoulli(odds))
                q = dist.Normal(loc, 1 + 0.4 * scale.sigmoid()).to_event(1).mask(present)
                where = pyro.sample(f"z_where_{t}", q)


def images(num_data=3):
    return torch.randn(num_data, 3)


def test_bounds_and_gradients_are_those_of_pyro(param_store):
    assert_like_pyro(ELBO(), Trace_ELBO(), AIR(), images())


def test_its_evidence_is_that_of_one_copy_at_a_time_or_refused(param_store):
    pair, x = AIR(), images()
    reference = one_copy_at_a_time(pair, x, nodes=10)
    settings = {"num_samples": 2000, "largest_error": 0.3}
    unless_refused(lambda: assert_evidence(pair, x, reference=reference, **settings), "'z_pres_")


def test_it_trains_by_the_score_function(param_store):
    for objective in (ELBO(), ScoreFunctionELBO(5), Trace_ELBO()):
        history = trained(AIR(), images(40), epochs=8, objective=objective)
        assert history["loss"][-1] < history["loss"][0]
