"""ProdLDA, a topic model with a softmax over dimension 1, batch normalisation and dropout."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from one_copy import (
    assert_elbo,
    assert_evidence,
    assert_iwae,
    assert_like_pyro,
    one_copy_at_a_time,
    trained,
)
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyrovae.objectives import ELBO, IWAE

pytestmark = pytest.mark.cpu


class Encoder(nn.Module):
    def __init__(self, vocabulary, topics, dropout):
        super().__init__()
        self.fc, self.drop = nn.Linear(vocabulary, 6), nn.Dropout(dropout)
        self.loc, self.log_variance = nn.Linear(6, topics), nn.Linear(6, topics)
        self.loc_norm = nn.BatchNorm1d(topics, affine=False)
        self.variance_norm = nn.BatchNorm1d(topics, affine=False)

    def forward(self, counts):
        h = self.drop(F.softplus(self.fc(counts)))
        log_variance = self.variance_norm(self.log_variance(h))
        return self.loc_norm(self.loc(h)), (0.5 * log_variance).exp()


class Decoder(nn.Module):
    def __init__(self, vocabulary, topics, dropout):
        super().__init__()
        self.beta = nn.Linear(topics, vocabulary, bias=False)
        self.norm, self.drop = nn.BatchNorm1d(vocabulary, affine=False), nn.Dropout(dropout)

    def forward(self, theta):
        return F.softmax(self.norm(self.beta(self.drop(theta))), dim=1)


class ProdLDA(nn.Module):
    def __init__(self, vocabulary=5, topics=2, dropout=0.2):
        super().__init__()
        self.topics = topics
        self.encoder = Encoder(vocabulary, topics, dropout)
        self.decoder = Decoder(vocabulary, topics, dropout)

    def model(self, docs):
        pyro.module("decoder", self.decoder)
        with pyro.plate("documents", docs.shape[0]):
            loc = docs.new_zeros((docs.shape[0], self.topics))
            logtheta = pyro.sample("logtheta", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            words = self.decoder(F.softmax(logtheta, -1))
            pyro.sample("obs", dist.Multinomial(int(docs.sum(-1).max()), words), obs=docs)

    def guide(self, docs):
        pyro.module("encoder", self.encoder)
        with pyro.plate("documents", docs.shape[0]):
            loc, scale = self.encoder(docs)
            pyro.sample("logtheta", dist.Normal(loc, scale).to_event(1))


def documents(num_data=4, length=6):
    words = torch.randint(5, (num_data, length))
    return F.one_hot(words, 5).sum(1).float()


def test_bounds_and_gradients_are_those_of_pyro(param_store):
    pair, x = ProdLDA(), documents(8)
    pair.train()
    assert_like_pyro(ELBO(), Trace_ELBO(), pair, x)


def test_evidence_and_bounds_are_those_of_one_copy_at_a_time_after_training(param_store):
    pair, x = ProdLDA(), documents()
    trained(pair, documents(48), epochs=4)
    pair.eval()
    reference = one_copy_at_a_time(pair, x, nodes=16)
    assert_evidence(pair, x, reference=reference)
    assert_elbo(pair, x, reference=reference)
    assert_iwae(pair, x, reference=reference)


def test_it_trains_by_pyros_mean_field_objective(param_store):
    losses = trained(ProdLDA(), documents(48), epochs=10, objective=TraceMeanField_ELBO())["loss"]
    assert losses[-1] < losses[0]


def test_it_trains_by_the_importance_weighted_bound_in_training_mode(param_store):
    pair, x = ProdLDA(), documents(48)
    moved = pair.decoder.norm.running_mean.clone()
    history = trained(pair, x, epochs=10, objective=IWAE(5))
    assert history["elbo"][-1] > history["elbo"][0]
    assert not torch.equal(pair.decoder.norm.running_mean, moved)
    assert int(pair.decoder.norm.num_batches_tracked) == 10 * 3  # once for each step
