"""A mixture whose class a mask makes known for some rows of one minibatch, in two ways of Pyro's."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from one_copy import assert_like_pyro, trained
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import nn

from pyrovae.evaluation import marginal_likelihood
from pyrovae.objectives import ELBO, IWAE

CLASSES = 3
IN_PARALLEL = {"enumerate": "parallel"}


class Mixture(nn.Module):
    """y -> x, three Gaussians; q(y | x) is off."""

    def __init__(self):
        super().__init__()
        self.logits, self.means = nn.Parameter(torch.randn(CLASSES)), nn.Parameter(2 * torch.randn(CLASSES))
        self.classifier = nn.Linear(1, CLASSES)

    def log_joint(self, x):
        """log p(x, y) for each class, `(N, C)`."""
        return (self.logits.log_softmax(-1) + dist.Normal(self.means, 0.8).log_prob(x)).detach()

    def log_evidence(self, x, y):
        """log p(x, y) of a row whose class is known, log p(x) of the others."""
        joint = self.log_joint(x).double()
        return torch.where(y >= 0, joint.gather(1, y.clamp(min=0)[:, None])[:, 0], joint.logsumexp(1))

    def elbo(self, x, y):
        joint, log_q = self.log_joint(x), self.classifier(x).log_softmax(-1).detach()
        unknown = (log_q.exp() * (joint - log_q)).sum(1)
        return torch.where(y >= 0, joint.gather(1, y.clamp(min=0)[:, None])[:, 0], unknown)


class ObsMask(Mixture):
    def model(self, x, y):
        known = y >= 0
        with pyro.plate("data", len(x)):
            y = pyro.sample(
                "y", dist.Categorical(logits=self.logits), obs=y.clamp(min=0).long(), obs_mask=known
            )
            pyro.sample("x", dist.Normal(self.means[y], 0.8), obs=x[:, 0])

    def guide(self, x, y):
        with pyro.plate("data", len(x)), poutine.mask(mask=y < 0):
            logits = self.classifier(x)
            pyro.sample("y_unobserved", dist.Categorical(logits=logits), infer=IN_PARALLEL)


class TwoSites(Mixture):
    """The class of a known row stands at a site of its own; both sites are masked."""

    def model(self, x, y):
        known, prior = y >= 0, dist.Categorical(logits=self.logits)
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=known):
                pyro.sample("known", prior, obs=y.clamp(min=0).long())
            with poutine.mask(mask=~known):
                drawn = pyro.sample("y", prior)
            y = torch.where(known, y.clamp(min=0).long(), drawn)
            pyro.sample("x", dist.Normal(self.means[y], 0.8), obs=x[:, 0])

    def guide(self, x, y):
        with pyro.plate("data", len(x)), poutine.mask(mask=y < 0):
            pyro.sample("y", dist.Categorical(logits=self.classifier(x)), infer=IN_PARALLEL)


class InTheModel(TwoSites):
    """The same, with the class enumerated in the model alone."""

    def guide(self, x, y):
        pass

    def model(self, x, y):
        known, prior = y >= 0, dist.Categorical(logits=self.logits)
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=known):
                pyro.sample("known", prior, obs=y.clamp(min=0).long())
            with poutine.mask(mask=~known):
                drawn = pyro.sample("y", prior, infer=IN_PARALLEL)
            y = torch.where(known, y.clamp(min=0).long(), drawn)
            pyro.sample("x", dist.Normal(self.means[y], 0.8), obs=x[:, 0])


def data(num_data=9):
    """A third of the rows is labelled. (The tests give floats: -1 in whole numbers parts a minibatch.)"""
    y = torch.where(torch.arange(num_data) % 3 == 0, torch.arange(num_data) % 4 % CLASSES, -1)
    return 2 * torch.randn(num_data, 1), y


@pytest.mark.parametrize("make", [ObsMask, TwoSites, InTheModel])
def test_a_known_row_counts_once_in_the_evidence(make):
    pair, (x, y) = make(), data()
    result = marginal_likelihood(pair, x, y.float(), num_samples=40)
    torch.testing.assert_close(result.log_px, pair.log_evidence(x, y), rtol=0, atol=1e-4)


@pytest.mark.parametrize("make", [ObsMask, TwoSites])
def test_a_known_row_counts_once_in_the_elbo(make):
    pair, (x, y) = make(), data()
    loss = ELBO().differentiable_loss(pair.model, pair.guide, x, y.float())
    torch.testing.assert_close(-loss.detach(), pair.elbo(x, y).sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [ObsMask, TwoSites, InTheModel])
def test_bounds_and_gradients_are_those_of_pyro(make):
    pair, (x, y) = make(), data()
    if make is InTheModel:
        pair.classifier.requires_grad_(False)
    assert_like_pyro(ELBO(), TraceEnum_ELBO(max_plate_nesting=1), pair, x, y.float())


@pytest.mark.parametrize("make", [ObsMask, TwoSites, InTheModel])
def test_the_importance_weighted_bound_is_the_evidence(make):
    pair, (x, y) = make(), data()
    loss = IWAE(3).evaluate(pair, x, y.float()).loss.detach()
    torch.testing.assert_close(-loss.double(), pair.log_evidence(x, y).sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [ObsMask, TwoSites])
def test_it_trains_below_the_evidence(make):
    pair, (x, y) = make(), data(30)
    history = trained(pair, x, y.float(), epochs=10, batch_size=30)
    assert history["elbo"][-1] > history["elbo"][0]
    assert history["elbo"][-1] <= pair.log_evidence(x, y).mean() + 1e-3
