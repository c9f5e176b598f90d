"""Gaussian mixtures: global weights, means and scale at a point, or latents of each datum alone."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from one_copy import (
    assert_elbo,
    assert_evidence,
    assert_iwae,
    assert_like_pyro,
    one_copy_at_a_time,
    trained,
)
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta
from torch import nn

from pyrovae.evaluation import marginal_likelihood
from pyrovae.objectives import ELBO
from pyrovae.programs import Pair

pytestmark = pytest.mark.usefixtures("param_store")  # autoguides keep their parameters there

IN_PARALLEL = {"enumerate": "parallel"}
GLOBALS = ["weights", "locs", "scale"]


@config_enumerate
def model(x):
    """The mixture of Pyro's tutorial, with two components."""
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", 2):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=x[:, 0])


def autoguide():
    at = {
        "weights": torch.tensor([0.4, 0.6]),
        "locs": torch.tensor([-1.0, 8.0]),
        "scale": torch.tensor(1.0),
    }
    return AutoDelta(poutine.block(model, expose=GLOBALS), init_loc_fn=lambda site: at[site["name"]])


def observations(num_data=30):
    return torch.cat([torch.randn(num_data // 3, 1) * 0.7, 9 + 0.7 * torch.randn(num_data * 2 // 3, 1)])


def log_likelihood(point, x):
    """log p(x given the globals) of each datum."""
    each = dist.Normal(point["locs"], point["scale"]).log_prob(x) + point["weights"].log()
    return each.logsumexp(1).detach().double()


def log_prior(point):
    parts = (
        dist.Dirichlet(0.5 * torch.ones(2)).log_prob(point["weights"]),
        dist.LogNormal(0.0, 2.0).log_prob(point["scale"]),
        dist.Normal(0.0, 10.0).log_prob(point["locs"]).sum(),
    )
    return sum(parts).detach().double()


def test_globals_at_a_point_are_parameters_of_the_evidence():
    x, guide = observations(), autoguide()
    guide(x)  # which makes its parameters
    result = marginal_likelihood(Pair(model, guide), x, num_samples=40)
    torch.testing.assert_close(result.log_px, log_likelihood(guide.median(x), x), rtol=0, atol=1e-4)
    assert all(name in str(result) for name in GLOBALS)  # the result says so


@pytest.mark.parametrize("batch_size", [30, 10])
def test_training_maximises_the_posterior_in_any_minibatches(batch_size):
    x, guide = observations(), autoguide()
    guide(x)
    adam = partial(torch.optim.Adam, lr=0.1)
    before = (log_likelihood(guide.median(x), x).sum() + log_prior(guide.median(x))) / 30
    history = trained(
        Pair(model, guide), x, batch_size=batch_size, epochs=900 // (30 // batch_size * 10), optimizer=adam
    )
    point = guide.median(x)
    after = (log_likelihood(point, x).sum() + log_prior(point)) / 30
    assert after > before + 0.5
    assert abs(history["elbo"][-1] - after) < 0.2
    assert abs(point["locs"][0] - x[:10].mean()) < 0.15
    assert abs(point["locs"][1] - x[10:].mean()) < 0.15
    assert abs(point["weights"][0] - 9.5 / 29) < 0.1  # the mode: (10 - 0.5) / (30 - 1)


def test_the_bound_is_that_of_pyro():
    x, guide = observations(), autoguide()
    guide(x)
    losses = [
        objective.differentiable_loss(model, guide, x).detach()
        for objective in (ELBO(), TraceEnum_ELBO(max_plate_nesting=1))
    ]
    point = guide.median(x)
    exact = log_likelihood(point, x).sum() + log_prior(point)
    for loss in losses:
        torch.testing.assert_close(-loss.double(), exact, rtol=1e-5, atol=1e-3)


class Local(nn.Module):
    """y, z -> x: a class and a Gaussian latent of each datum. The guide may lack the class."""

    def __init__(self, in_model):
        super().__init__()
        self.in_model = in_model
        self.logits, self.means = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))
        self.decoder, self.classifier, self.encoder = nn.Linear(1, 2), nn.Linear(2, 3), nn.Linear(2, 2)

    def model(self, x):
        with pyro.plate("data", len(x)):
            infer = IN_PARALLEL if self.in_model else {}
            y = pyro.sample("y", dist.Categorical(logits=self.logits), infer=infer)
            z = pyro.sample("z", dist.Normal(self.means[y], 1.0))
            pyro.sample("x", dist.Normal(self.decoder(z.unsqueeze(-1)), 0.7).to_event(1), obs=x)

    def guide(self, x):
        loc, scale = self.encoder(x).unbind(-1)
        with pyro.plate("data", len(x)):
            if not self.in_model:
                pyro.sample("y", dist.Categorical(logits=self.classifier(x)), infer=IN_PARALLEL)
            pyro.sample("z", dist.Normal(loc, 1 + scale.sigmoid()))


@pytest.mark.parametrize("in_model", [False, True], ids=["in the guide", "in the model"])
def test_a_mixture_of_local_latents_is_right(in_model):
    pair, x = Local(in_model), torch.randn(4, 2)
    if in_model:
        pair.classifier.requires_grad_(False)
    reference = one_copy_at_a_time(pair, x, nodes=20, classes_first=False)
    assert_evidence(pair, x, reference=reference)
    assert_elbo(pair, x, reference=reference)
    assert_iwae(pair, x, reference=reference)
    assert_like_pyro(ELBO(), TraceEnum_ELBO(max_plate_nesting=1), pair, x)
    history = trained(pair, torch.randn(32, 2), epochs=10)
    assert history["elbo"][-1] > history["elbo"][0]
