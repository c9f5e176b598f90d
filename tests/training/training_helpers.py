"""What the tests of `fit` share: a short run, small models, and ways to look at what happens in them."""

import copy
from functools import partial

import pytest
import torch

from pyrovae.likelihoods import Gaussian
from pyrovae.models import PPCA, VAE
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.training import fit

X_SHAPE = (1, 4, 4)
sgd = partial(torch.optim.SGD, lr=0.01)
frozen = partial(torch.optim.SGD, lr=0.0)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def train(module, x, **settings):
    settings = {"epochs": 2, "batch_size": 10, "progress": False, "device": "cpu"} | settings
    return fit(module, x, **settings)


def vae_with(likelihood=None, posterior=None, levels=1):
    decoder = MLP(2, (levels, *X_SHAPE[1:]), hidden=(8,))
    encoder = DiagonalNormal(MLP(X_SHAPE, 6, hidden=(8,)), 2)
    return VAE(StandardNormal(2), (likelihood or Gaussian)(decoder), posterior or encoder)


def snapshot(module):
    return copy.deepcopy(module.state_dict())


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_seconds(history):
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in history.rows]
    return vars(history) | {"rows": rows}


class SpyELBO(ELBO):
    """Notes each batch that it is given."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def evaluate(self, pair, *args, **kwargs):
        if torch.is_grad_enabled():
            self.batches.append(args)
        return super().evaluate(pair, *args, **kwargs)


class AtCall:
    """A transform that leaves the data alone, and does something at one of its calls."""

    def __init__(self, number, action):
        self.number, self.action, self.calls = number, action, 0

    def __call__(self, x):
        self.calls += 1
        return x if self.calls != self.number else self.action(x)


class Interruption(Exception):
    pass


def interrupt(*context):
    raise Interruption


def presentations(x, batch_size, validation=None):
    """How often fit presents data before its first step, to check them."""
    transform = AtCall(0, None)
    settings = {"batch_size": batch_size, "transform": transform, "validation": validation}
    with pytest.raises(Interruption):
        # A schedule is called twice for each half of two epochs by the checks, and then by the first step.
        train(PPCA(x.shape[1:], 1), x, beta=AtCall(9, interrupt), **settings)
    return transform.calls
