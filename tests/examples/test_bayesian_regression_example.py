"""Bayesian regression of Pyro's tutorial: `PyroSample` weights, autoguides and guides by hand."""

import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from one_copy import evidence_of_all, trained, unless_refused
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn

from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.programs import Pair, structure

pytestmark = pytest.mark.usefixtures("param_store")  # autoguides keep their parameters there

NOISE = 0.5


class Regression(PyroModule):
    """weight, bias ~ N(0, 1); y = x weight + bias + noise. A datum holds its inputs and its target."""

    def __init__(self, inputs=2):
        super().__init__()
        self.linear = PyroModule[nn.Linear](inputs, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, inputs]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self, data):
        mean = self.linear(data[:, :-1]).squeeze(-1)
        with pyro.plate("data", len(data)):
            pyro.sample("obs", dist.Normal(mean, NOISE), obs=data[:, -1])


class ByHand(nn.Module):
    """The same model in plain statements, with a Gaussian guide over both weights and bias."""

    def __init__(self, plate_of_all=None):
        super().__init__()
        self.loc, self.log_scale = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.full((3,), -1.0))
        self.plate_of_all = plate_of_all

    def model(self, data):
        weight = pyro.sample("weight", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        bias = pyro.sample("bias", dist.Normal(0.0, 1.0))
        size = self.plate_of_all or len(data)
        with pyro.plate("data", size, subsample_size=len(data)):
            mean = (data[:, :-1] * weight.unsqueeze(-2)).sum(-1) + bias
            pyro.sample("obs", dist.Normal(mean, NOISE), obs=data[:, -1])

    def guide(self, data):
        scale = self.log_scale.exp()
        pyro.sample("weight", dist.Normal(self.loc[:2], scale[:2]).to_event(1))
        pyro.sample("bias", dist.Normal(self.loc[2], scale[2]))


def table(num_data=40):
    x = torch.randn(num_data, 2)
    y = x @ torch.tensor([[1.0], [-0.5]]) + 0.3 + NOISE * torch.randn(num_data, 1)
    return torch.cat([x, y], 1)


def design(data):
    return torch.cat([data[:, :-1], torch.ones(len(data), 1)], 1).double()


def log_evidence(data):
    """log p(y given x) of all data: a normal density."""
    features = design(data)
    covariance = features @ features.T + NOISE**2 * torch.eye(len(data)).double()
    zero = torch.zeros(len(data)).double()
    return dist.MultivariateNormal(zero, covariance).log_prob(data[:, -1].double()).item()


def posterior(data):
    """The mean and the precision matrix of weights and bias."""
    features = design(data)
    precision = torch.eye(3).double() + features.T @ features / NOISE**2
    return torch.linalg.solve(precision, features.T @ data[:, -1].double()) / NOISE**2, precision


def exact_guide(data):
    mean, precision = posterior(data)
    pair = ByHand()
    with torch.no_grad():
        pair.loc.copy_(mean)
        # Not the posterior itself: a diagonal one, wider than the best.
        pair.log_scale.copy_(precision.diagonal().log() / -2 + 0.6)
    return pair


def test_the_evidence_of_each_datum_is_refused_and_the_remedy_works():
    data = table(12)
    pair = exact_guide(data)
    with pytest.raises(InputError, match=r"'(weight|bias)'") as error:
        marginal_likelihood(pair, data, num_samples=50)
    assert "joint=True" in str(error.value)
    value, std_error, khat = evidence_of_all(pair, data, num_samples=2000)
    assert abs(value - log_evidence(data)) < 4.5 * std_error + 1e-3
    assert std_error < 0.1
    assert khat < 0.7


def test_an_improper_guide_shows_in_the_error_of_the_joint_evidence():
    data = table(12)
    pair = exact_guide(data)
    with torch.no_grad():
        pair.loc.add_(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the result's own warning
        value, std_error, khat = evidence_of_all(pair, data, num_samples=2000)
    assert abs(value - log_evidence(data)) < 6 * std_error or khat > 0.7


@pytest.mark.parametrize(("batch_size", "plate_of_all"), [(40, None), (8, None), (8, 40)])
def test_any_minibatch_size_finds_the_posterior(batch_size, plate_of_all):
    data, pair = table(), ByHand(plate_of_all)
    mean, precision = posterior(data)
    epochs = 300 * batch_size // 40
    trained(
        pair,
        data,
        batch_size=batch_size,
        epochs=epochs,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.06, betas=(0.9, 0.99)),
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=epochs),
    )
    scale = precision.diagonal().rsqrt()
    assert ((pair.loc.detach() - mean).abs() < 0.7 * scale).all()
    ratio = pair.log_scale.detach().exp() / scale
    assert ((ratio > 0.65) & (ratio < 1.6)).all()  # that of one minibatch of 8 would be 2.2 times as wide


@pytest.mark.parametrize("batch_size", [40, 4])
def test_the_history_is_in_one_unit_at_any_minibatch_size(batch_size):
    """The bound of the whole data set, divided by their number."""
    data = table()
    pair = exact_guide(data)
    mean, precision = posterior(data)
    q_loc, q_variance = pair.loc.detach().double(), (2 * pair.log_scale.detach()).exp().double()
    features = design(data)
    residual = data[:, -1].double() - features @ q_loc
    spread = (features.square() * q_variance).sum(1)
    expected = dist.Normal(0.0, NOISE).log_prob(residual) - 0.5 * spread / NOISE**2
    kl = 0.5 * (q_variance + q_loc.square() - 1 - q_variance.log()).sum()
    elbo = ((expected.sum() - kl) / 40).item()
    frozen = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.0), "epochs": 40}
    history = trained(pair, data, validation=data, batch_size=batch_size, **frozen)
    for name in ("elbo", "loss"):
        found = torch.tensor(history[name]) * (1 if name == "elbo" else -1)
        assert abs(found.mean() - elbo) < 4.5 * found.std() / 40**0.5 + 1e-4, name
    found = torch.tensor(history["elbo"])
    assert abs(history["validation_elbo"][0] - elbo) < 6 * found.std()
    assert abs(torch.tensor(history["kl"]).mean() - kl / 40) < 0.02


AUTOGUIDES = [AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal]


@pytest.mark.parametrize("make", AUTOGUIDES)
def test_autoguides_train_and_give_the_joint_evidence(make):
    data, model = table(), Regression()
    pair = Pair(model, make(model))
    trained(pair, data, batch_size=40, epochs=120, optimizer=partial(torch.optim.Adam, lr=0.05))
    value, std_error, khat = evidence_of_all(pair, data, num_samples=2000)
    assert abs(value - log_evidence(data)) < 4.5 * std_error + 1e-3
    assert std_error < 0.2
    with pytest.raises(InputError, match="joint=True"):
        marginal_likelihood(pair, data, num_samples=50)


def test_an_autoguide_at_a_point_makes_its_globals_parameters():
    """The evidence of a datum is then its density at the point, and the result says so."""
    data, model = table(), Regression()
    pair = Pair(model, AutoDelta(model))
    adam = partial(torch.optim.Adam, lr=0.05)
    trained(pair, data, batch_size=10, epochs=50, optimizer=adam)
    point = pair.guide.median(data)
    weight, bias = point["linear.weight"].detach(), point["linear.bias"].detach()
    exact = dist.Normal((data[:, :-1] @ weight.T + bias).squeeze(-1), NOISE).log_prob(data[:, -1])
    mean, _ = posterior(data)
    assert ((torch.cat([weight[0], bias]) - mean).abs() < 0.1).all()  # the posterior's mode
    result = marginal_likelihood(pair, data, num_samples=40)
    torch.testing.assert_close(result.log_px, exact.double(), rtol=0, atol=1e-4)
    assert "linear.weight" in str(result)


def test_a_prior_sampled_network_is_drawn_with_its_global_sites():
    data, model = table(5), Regression()
    pair = Pair(model, AutoNormal(model))
    found = structure(pair, data)
    assert set(found.in_scope("global")) >= {"linear.weight", "linear.bias"}
    assert found.data_plate.name == "data"


# Autoguides over local latents remember the data that they saw first.


class Factor(nn.Module):
    """z -> x with a latent for each datum."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) * torch.ones(3), NOISE).to_event(1), obs=x)

    def log_px(self, x):
        covariance = torch.ones(3, 3) + NOISE**2 * torch.eye(3)
        return dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x).double()


def test_an_autoguide_over_local_latents_trains_on_all_data_at_once():
    model, x = Factor().model, torch.randn(10, 3)
    pair = Pair(model, AutoNormal(model, init_scale=0.4))
    adam = partial(torch.optim.Adam, lr=0.1)
    history = trained(pair, x, batch_size=10, epochs=150, optimizer=adam)
    assert abs(history["elbo"][-1] - Factor().log_px(x).mean()) < 0.3
    result = unless_refused(lambda: marginal_likelihood(pair, x, num_samples=2000), "'z'", "AutoNormal")
    if result is not None:
        assert ((result.log_px - Factor().log_px(x)).abs() < 4.5 * result.std_error + 1e-3).all()


@pytest.mark.parametrize("make", [AutoNormal, AutoDiagonalNormal])
def test_an_autoguide_over_local_latents_is_refused_in_minibatches(make):
    model, x = Factor().model, torch.randn(10, 3)
    with pytest.raises(InputError, match=r"'z'|Auto\w*Normal"):
        trained(Pair(model, make(model)), x, batch_size=5, epochs=1)


def test_a_joint_autoguide_over_local_latents_has_no_evidence_for_each_datum():
    model, x = Factor().model, torch.randn(6, 3)
    pair = Pair(model, AutoMultivariateNormal(model))
    with pytest.raises(InputError):
        marginal_likelihood(pair, x, num_samples=50)
