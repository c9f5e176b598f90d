"""Pyro's autoguides and Bayesian networks of PyroSample in `fit`, on a regression with a closed form."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    init_to_value,
)
from pyro.nn import PyroModule, PyroSample
from torch import nn
from training_helpers import frozen, train

from pyrovae.diagrams import plate_diagram
from pyrovae.errors import InputError
from pyrovae.objectives import ELBO
from pyrovae.programs import Pair
from pyrovae.programs.parameters import own_parameters
from pyrovae.training import Settings
from pyrovae.training.batches import Minibatches, parts_of
from pyrovae.training.loop import TrainingRun
from pyrovae.training.sources import source_of

pytestmark = pytest.mark.cpu

N, SCALE = 200, 0.5


@pytest.fixture(scope="module")
def data():
    """Rows (x1, x2, y) with y ~ N(x1 - x2 / 2 + 0.3, 0.5^2)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 2, generator=generator)
    y = x @ torch.tensor([1.0, -0.5]) + 0.3 + SCALE * torch.randn(N, generator=generator)
    return torch.cat([x, y[:, None]], 1)


def exact(data):
    """The posterior N(m, S) of weights and bias with a standard normal prior."""
    inputs = torch.cat([data[:, :2], torch.ones(len(data), 1)], 1)
    precision = inputs.T @ inputs / SCALE**2 + torch.eye(3)
    return torch.linalg.solve(precision, inputs.T @ data[:, 2]) / SCALE**2, precision


class Regression(PyroModule):
    """A linear layer whose weights are PyroSamples."""

    def __init__(self, size=None):
        super().__init__()
        self.size = size
        self.linear = PyroModule[nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self, rows):
        mean = self.linear(rows[:, :2]).squeeze(-1)
        subsample = None if self.size is None else torch.arange(len(rows))
        with pyro.plate("data", self.size or len(rows), subsample=subsample):
            pyro.sample("y", dist.Normal(mean, SCALE), obs=rows[:, 2])


class Easy(EasyGuide):
    def guide(self, rows):
        group = self.group()
        loc = pyro.param("loc", torch.zeros(group.event_shape))
        scale = pyro.param(
            "scale", torch.full(group.event_shape, 0.1), constraint=dist.constraints.positive
        )
        group.sample("weights", dist.Normal(loc, scale).to_event(1))


def listed(model):
    guides = AutoGuideList(model)
    guides.append(AutoNormal(poutine.block(model, expose=["linear.weight"])))
    guides.append(AutoDelta(poutine.block(model, expose=["linear.bias"])))
    return guides


GUIDES = (
    *(AutoNormal, AutoDelta, AutoDiagonalNormal, AutoMultivariateNormal),
    *(partial(AutoLowRankMultivariateNormal, rank=1), listed, Easy),
)


def name(guide):
    return getattr(getattr(guide, "func", guide), "__name__", str(guide))


@pytest.fixture(autouse=True)
def clean_store():
    with pyro.get_param_store().scope():
        yield


@pytest.mark.parametrize("make", GUIDES, ids=name)
def test_the_loss_and_its_gradients_in_a_minibatch_are_pyros_for_all_data(data, make):
    """Pyro's, under a plate that says N, are those for all data; the library's are per datum."""
    torch.manual_seed(0)
    model, says_n = Regression(), Regression(N)
    pair = Pair(model, make(model))
    minibatches = Minibatches(source_of(data), None, parts_of(N, None, 20), None, torch.device("cpu"))
    with own_parameters(pair):
        prepared = TrainingRun(pair, minibatches, None, Settings(batch_size=20)).prepared
        torch.manual_seed(1)
        loss, terms = prepared.loss(minibatches.first(), 1.0, {})
        gradients = torch.autograd.grad(loss, prepared.trained)
        torch.manual_seed(1)
        pyros = Trace_ELBO(max_plate_nesting=1).differentiable_loss(says_n, pair.guide, data[:20]) / N
        expected = torch.autograd.grad(pyros, prepared.trained)
    assert loss.item() == pytest.approx(pyros.item(), rel=1e-5)
    assert (terms["kl"] - terms["reconstruction"]).item() == pytest.approx(pyros.item(), rel=1e-5)
    for found, of_pyro in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, of_pyro, rtol=1e-4, atol=1e-6)


def started_at(data, make):
    """A guide that begins at the exact mean, with scales of 0.1."""
    mean, _ = exact(data)
    values = {"linear.weight": mean[None, :2], "linear.bias": mean[2:]}
    model = Regression()
    return Pair(model, make(model, init_loc_fn=init_to_value(values=values)))


@pytest.mark.parametrize("make", [AutoNormal, AutoDiagonalNormal])
def test_minibatches_find_the_posterior_of_a_regression(data, make):
    """The best diagonal normal has the precisions of the exact posterior; a minibatch's are N/B smaller."""
    mean, precision = exact(data)
    pair = started_at(data, make)
    settings = {"batch_size": 50, "epochs": 20, "objective": ELBO(num_particles=4)}
    optimizer = partial(torch.optim.Adam, lr=0.1, betas=(0.9, 0.95))
    scheduler = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.85)
    train(pair, data, optimizer=optimizer, scheduler=scheduler, **settings)
    found = pair.guide.quantiles([0.158655, 0.5, 0.841345])
    low, middle, high = (
        torch.cat([found["linear.weight"][k].flatten(), found["linear.bias"][k].flatten()])
        for k in range(3)
    )
    torch.testing.assert_close(middle, mean, atol=0.03, rtol=0)
    torch.testing.assert_close((high - low) / 2, precision.diagonal().rsqrt(), rtol=0.25, atol=0)


def test_a_map_guide_finds_the_mode_of_all_data(data):
    """The mode is the ridge regression of all data."""
    model = Regression()
    guide = AutoDelta(model)
    settings = {"batch_size": 40, "epochs": 30, "optimizer": partial(torch.optim.SGD, lr=0.05)}
    train(
        Pair(model, guide),
        data,
        scheduler=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.85),
        **settings,
    )
    found = torch.cat([guide.median()["linear.weight"].flatten(), guide.median()["linear.bias"]])
    torch.testing.assert_close(found, exact(data)[0], atol=0.02, rtol=0)


def test_two_guides_of_one_class_do_not_share_their_parameters(data):
    """Pyro's store knows both by the same names."""
    pairs = [started_at(data * factor, AutoNormal) for factor in (1.0, 3.0)]
    for pair in pairs:
        train(pair, data, epochs=1, optimizer=frozen)
    first, second = (pair.guide.locs.linear.bias.item() for pair in pairs)
    assert first == pytest.approx(exact(data)[0][2].item(), abs=1e-5)
    assert second == pytest.approx(exact(data * 3)[0][2].item(), abs=1e-5)
    assert first != second


def test_a_resumed_run_finds_the_guides_parameters(data, tmp_path):
    def run(epochs, folder):
        torch.manual_seed(0)
        pair = started_at(data, AutoNormal)
        train(pair, data, epochs=epochs, folder=folder, resume=True)
        return pair.guide.scales.linear.weight.detach()

    run(2, tmp_path / "resumed")
    assert torch.equal(run(4, tmp_path / "resumed"), run(4, tmp_path / "whole"))


def test_the_diagram_of_a_network_of_pyro_samples(data):
    model = Regression()
    text = str(plate_diagram(Pair(model, AutoNormal(model)), data))
    assert "linear.weight" in text
    assert "data" in text


# Latents of single data


def local(x, size=None, rows=None):
    """z_n ~ N(0, 1), x_n ~ N(z_n, 1): the posterior is N(x_n / 2, 1/2)."""
    with pyro.plate("data", size or len(x), subsample=rows) as rows:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def subsampled(x):
    with pyro.plate("data", len(x), subsample_size=10) as rows:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows, 0])


def of_index(x):
    """The second column of x is the datum's index."""
    local(x, 40, x[:, 1].long())


LONG = {"epochs": 60, "optimizer": partial(torch.optim.SGD, lr=3.0), "objective": Trace_ELBO()}


@pytest.fixture(scope="module")
def columns():
    x = torch.linspace(-2, 2, 40)[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    return torch.stack([x, torch.arange(40.0)], 1)


@pytest.mark.parametrize(
    ("model", "create", "batch_size"),
    [
        (local, None, 40),
        (subsampled, None, 40),
        (subsampled, lambda x: pyro.plate("data", len(x), subsample_size=10), 40),
        (of_index, lambda x: pyro.plate("data", 40, subsample=x[:, 1].long()), 10),
    ],
)
def test_an_autoguide_over_single_data_keeps_each_with_its_parameters(columns, model, create, batch_size):
    guide = AutoDelta(model, create_plates=create)
    train(Pair(model, guide), columns, batch_size=batch_size, **LONG)
    assert guide.z.shape == (40,)
    torch.testing.assert_close(guide.z.detach(), columns[:, 0] / 2, atol=0.02, rtol=0)


def test_a_joint_autoguide_over_all_data_keeps_their_order(columns):
    guide = AutoDiagonalNormal(local, init_scale=0.7)
    slower = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.95)
    optimizer = partial(torch.optim.SGD, lr=4.0)
    train(Pair(local, guide), columns, batch_size=40, epochs=60, optimizer=optimizer, scheduler=slower)
    torch.testing.assert_close(guide.loc.detach(), columns[:, 0] / 2, atol=0.3, rtol=0)


@pytest.mark.parametrize("make", [AutoNormal, AutoDelta, AutoDiagonalNormal, AutoMultivariateNormal])
def test_an_autoguide_over_single_data_is_refused_in_minibatches(columns, make):
    guide = make(local)
    with pytest.raises(InputError, match=r"parameters of 'z' for each datum.*batch_size=len"):
        train(Pair(local, guide), columns, batch_size=10)
    train(Pair(local, guide), columns, batch_size=40, epochs=1)  # the guide has not been called before


def test_an_autoguide_over_single_data_is_refused_where_the_plate_draws_the_rows(columns):
    """The plate's random rows are not those of the minibatch."""

    def says_n(x):
        with pyro.plate("data", 40, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def plate(x):
        return pyro.plate("data", 40, subsample_size=len(x))

    with pytest.raises(InputError, match="parameters of 'z' for each datum"):
        train(Pair(says_n, AutoNormal(says_n, create_plates=plate)), columns, batch_size=10)


def test_a_joint_autoguide_is_refused_for_a_subsample(columns):
    with pytest.raises(InputError, match="would share them: use AutoNormal"):
        train(Pair(subsampled, AutoDiagonalNormal(subsampled)), columns, batch_size=40)


def test_an_autoguide_over_single_data_takes_no_validation_data(columns):
    with pytest.raises(InputError, match="not the validation data"):
        train(Pair(local, AutoNormal(local)), columns, batch_size=40, validation=columns[:10])


def test_an_autoguide_that_remembers_other_data_is_refused(columns):
    guide = AutoNormal(local)
    guide(columns[:10])
    with pytest.raises(InputError, match=r"called with 10 data before.*now there are 40: make a new guide"):
        train(Pair(local, guide), columns, batch_size=40)


def by_position(x):
    """The same by hand."""
    loc = pyro.param("loc", lambda: torch.zeros(len(x)))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Delta(loc))


def test_a_guide_of_ones_own_with_parameters_by_position_is_treated_alike(columns):
    with pyro.get_param_store().scope(), pytest.raises(InputError, match=r"by their position.*'loc'"):
        train(Pair(local, by_position), columns, batch_size=10)
    train(Pair(local, by_position), columns, batch_size=40, **LONG)
    torch.testing.assert_close(pyro.param("loc").detach(), columns[:, 0] / 2, atol=0.02, rtol=0)


def test_a_network_as_wide_as_the_minibatch_is_no_parameter_by_position(columns):
    network = nn.Sequential(nn.Linear(2, 10), nn.Tanh(), nn.Linear(10, 2))

    def guide(x):
        pyro.module("network", network)
        loc, log_scale = network(x).unbind(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()))

    train(Pair(local, guide), columns, batch_size=10, epochs=1, validation=columns[:10])
