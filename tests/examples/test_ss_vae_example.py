"""Pyro's semi-supervised VAE: one-hot classes, given for some data and summed out for others."""

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
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import nn

from pyrovae.objectives import ELBO

CLASSES = 3


class Net(nn.Module):
    """A network of several inputs, which it broadcasts if it is told to."""

    def __init__(self, inputs, outputs, broadcasts):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, outputs))
        self.broadcasts = broadcasts

    def forward(self, *parts):
        if self.broadcasts:
            shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
            parts = [part.expand(*shape, -1) for part in parts]
        return self.net(torch.cat(parts, -1))


class SSVAE(nn.Module):
    def __init__(self, broadcasts=True):
        super().__init__()
        self.encoder_y = Net(4, CLASSES, broadcasts)
        self.encoder_z = Net(4 + CLASSES, 4, broadcasts)
        self.decoder = Net(2 + CLASSES, 4, broadcasts)

    def model(self, x, y=None):
        pyro.module("ss_vae", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            prior = x.new_tensor([0.5, 0.3, 0.2]).expand(len(x), CLASSES)
            y = pyro.sample("y", dist.OneHotCategorical(prior), obs=one_hot(y))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z, y)).to_event(1), obs=x)

    def guide(self, x, y=None):
        with pyro.plate("data", len(x)):
            if y is None:
                logits = self.encoder_y(x)
                y = pyro.sample("y", dist.OneHotCategorical(logits=logits), infer={"enumerate": "parallel"})
            else:
                y = one_hot(y)
            loc, scale = self.encoder_z(x, y).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()).to_event(1))


def one_hot(y):
    return None if y is None else nn.functional.one_hot(y, CLASSES).float()


def images(num_data=4):
    return torch.rand(num_data, 4).round()


def test_bounds_and_gradients_are_those_of_pyro_with_and_without_classes(param_store):
    pair, x = SSVAE(), images()
    assert_like_pyro(ELBO(), TraceEnum_ELBO(max_plate_nesting=1), pair, x)
    assert_like_pyro(ELBO(), Trace_ELBO(), pair, x, torch.tensor([0, 2, 1, 1]))


@pytest.mark.parametrize("broadcasts", [True, False], ids=["broadcasts", "takes a batch alone"])
def test_evidence_and_bounds_are_those_of_one_copy_at_a_time(broadcasts, param_store):
    pair, x, y = SSVAE(broadcasts), images(), torch.tensor([0, 2, 1, 1])
    for data in ((x,), (x, y)):
        reference = one_copy_at_a_time(pair, *data)
        assert_evidence(pair, *data, reference=reference)
        assert_elbo(pair, *data, reference=reference)
        assert_iwae(pair, *data, reference=reference)


@pytest.mark.parametrize("broadcasts", [True, False], ids=["broadcasts", "takes a batch alone"])
def test_it_trains_on_partly_labelled_data(broadcasts, param_store):
    pair, x = SSVAE(broadcasts), images(40)
    y = torch.where(torch.arange(40) < 10, torch.arange(40) % CLASSES, -1)
    history = trained(pair, x, y, epochs=15)
    assert history["elbo"][-1] > history["elbo"][0]
    assert_evidence(pair, x[:3], reference=one_copy_at_a_time(pair, x[:3]))
