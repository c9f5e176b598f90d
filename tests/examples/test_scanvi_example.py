"""scANVI: counts of cells, partly labelled, with a classification loss as a factor of the guide."""

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from one_copy import assert_elbo, assert_evidence, assert_like_pyro, one_copy_at_a_time, trained
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import nn

from pyrovae.objectives import ELBO

CLASSES = 2


def broadcast(*parts):
    shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*shape, -1) for part in parts], -1)


class SCANVI(nn.Module):
    """z1, y -> z2; z2, size -> x. The guide goes x -> z2, size; z2 -> y; z2, y -> z1."""

    def __init__(self, genes=4, alpha=0.5, has_rsample=False):
        super().__init__()
        self.alpha, self.has_rsample = alpha, has_rsample
        self.z2_net, self.x_net = nn.Linear(1 + CLASSES, 2), nn.Linear(1, genes)
        self.z2_encoder, self.classifier = nn.Linear(genes, 4), nn.Linear(1, CLASSES)
        self.z1_encoder = nn.Linear(1 + CLASSES, 2)

    def model(self, x, y=None):
        pyro.module("scanvi", self)
        with pyro.plate("batch", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            prior = x.new_ones(len(x), CLASSES) / CLASSES
            y = pyro.sample("y", dist.OneHotCategorical(prior), obs=one_hot(y))
            loc, scale = self.z2_net(broadcast(z1, y)).chunk(2, -1)
            z2 = pyro.sample("z2", dist.Normal(loc, 1 + 0.5 * scale.sigmoid()).to_event(1))
            size = pyro.sample("l", dist.LogNormal(x.new_full((len(x), 1), 1.0), 0.2).to_event(1))
            rate = size * self.x_net(z2).softmax(-1)
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)

    def guide(self, x, y=None):
        with pyro.plate("batch", len(x)):
            loc, scale, size, spread = self.z2_encoder(x.log1p()).chunk(4, -1)
            pyro.sample("l", dist.LogNormal(1 + 0.1 * size, 0.22 + 0.1 * spread.sigmoid()).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(loc, 1 + 0.5 * scale.sigmoid()).to_event(1))
            q = dist.OneHotCategorical(logits=self.classifier(z2))
            if y is None:
                y = pyro.sample("y", q, infer={"enumerate": "parallel"})
            else:
                y = one_hot(y)
                loss = -self.alpha * q.log_prob(y)
                pyro.factor("classification_loss", loss, has_rsample=self.has_rsample)
            loc, scale = self.z1_encoder(broadcast(z2, y)).chunk(2, -1)
            pyro.sample("z1", dist.Normal(loc, 1 + 0.5 * scale.sigmoid()).to_event(1))


def one_hot(y):
    return None if y is None else F.one_hot(y, CLASSES).float()


def cells(num_data=3):
    return torch.poisson(torch.full((num_data, 4), 0.8))


def test_unlabelled_cells_have_pyros_bound_and_gradients(param_store):
    assert_like_pyro(ELBO(), TraceEnum_ELBO(max_plate_nesting=1), SCANVI(), cells())


def test_labelled_cells_train_as_in_pyros_objective(param_store):
    pair, reparameterised = SCANVI(), SCANVI(has_rsample=True)
    for one, other in zip(reparameterised.children(), pair.children(), strict=True):
        one.weight, one.bias = other.weight, other.bias
    # All draws are reparameterised. So the loss's gradient is the one that Pyro gives a factor marked so.
    data = cells(), torch.tensor([0, 1, 1])
    assert_like_pyro(ELBO(), Trace_ELBO(), pair, *data, pyros_pair=reparameterised)


def test_the_evidence_of_unlabelled_cells_is_that_of_one_copy_at_a_time(param_store):
    pair, x = SCANVI(), cells()
    reference = one_copy_at_a_time(pair, x, nodes=5)
    assert_evidence(pair, x, reference=reference)
    assert_elbo(pair, x, reference=reference)


def test_the_classification_loss_is_left_out_of_the_evidence_of_labelled_cells(param_store):
    pair, x, y = SCANVI(alpha=5.0), cells(), torch.tensor([0, 1, 1])
    result = assert_evidence(pair, x, y, reference=one_copy_at_a_time(pair, x, y, nodes=5))
    assert "classification_loss" in str(result)  # the result says so


def test_it_trains_on_partly_labelled_cells(param_store):
    x, y = cells(40), torch.where(torch.arange(40) < 10, torch.arange(40) % CLASSES, -1)
    history = trained(SCANVI(), x, y, epochs=15)
    assert history["elbo"][-1] > history["elbo"][0]
