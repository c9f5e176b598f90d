"""Hierarchies, global latents, further plates, other figures: beside networks that take a batch alone."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from one_copy import (
    assert_elbo,
    assert_evidence,
    assert_iwae,
    evidence_of_all,
    one_copy_at_a_time,
    trained,
)
from torch import nn

from pyrovae.evaluation import gradient_variance, kl_decomposition, marginal_likelihood
from pyrovae.objectives import ELBO, IWAE, FreeBits

pytestmark = pytest.mark.cpu


class Rows(nn.Module):
    """A network that takes `(B, features)`, or refuses."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.first, self.second = nn.Linear(inputs, 4), nn.Linear(4, outputs)

    def forward(self, h):
        rows, _ = h.shape
        return self.second(self.first(h).view(rows, 2, 2).tanh().flatten(1))


class Silent(Rows):
    """A network that takes anything, and computes something else of leading dimensions."""

    def __init__(self, inputs, outputs, dim=1):
        super().__init__(inputs, outputs)
        self.dim = dim

    def forward(self, h):
        return self.second(3 * F.softmax(self.first(h), dim=self.dim))


def data(num_data=3, features=3):
    return torch.randn(num_data, features, generator=torch.Generator().manual_seed(2))


class Hierarchy(nn.Module):
    """z2 -> z1 -> x, and a guide that goes z1, z2."""

    def __init__(self, make):
        super().__init__()
        self.top, self.bottom = make(1, 1), make(1, 3)
        self.encoder, self.upper = make(3, 2), make(1, 2)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.top(z2), 0.9).to_event(1))
            pyro.sample("x", dist.Normal(self.bottom(z1), 0.8).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc, scale = self.encoder(x).chunk(2, -1)
            z1 = pyro.sample("z1", dist.Normal(loc, 0.9 + 0.5 * scale.sigmoid()).to_event(1))
            loc, scale = self.upper(z1).chunk(2, -1)
            pyro.sample("z2", dist.Normal(loc, 0.9 + 0.5 * scale.sigmoid()).to_event(1))


@pytest.mark.parametrize("make", [Rows, Silent])
def test_a_latent_that_follows_another_gets_a_batch_too(make):
    pair, x = Hierarchy(make), data()
    reference = one_copy_at_a_time(pair, x, nodes=16)
    assert_evidence(pair, x, reference=reference)
    assert_elbo(pair, x, reference=reference)
    assert_iwae(pair, x, reference=reference)


class Gated(nn.Module):
    """A branch that starts at zero, as residual branches do, so that it shows in gradients alone."""

    def __init__(self, dim):
        super().__init__()
        self.line, self.branch = nn.Linear(2, 3), Silent(2, 3, dim)
        self.gate = nn.Parameter(torch.zeros(()))
        self.encoder = nn.Linear(3, 4)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            mean = self.line(z) + self.gate * self.branch(z)
            pyro.sample("x", dist.Normal(mean, 0.8).to_event(1), obs=x)

    def guide(self, x):
        loc, scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.9 + 0.5 * scale.sigmoid()).to_event(1))


def test_a_branch_that_starts_at_zero_gets_the_gradient_of_one_copy():
    gradients = []
    for dim in (1, -1):
        torch.manual_seed(0)
        pair = Gated(dim)
        loss = IWAE(4).evaluate(pair, data(2).repeat(8000, 1)).loss / 8000
        gradients.append(torch.autograd.grad(loss, pair.gate)[0])
    assert abs(gradients[0] - gradients[1]) < 0.06, gradients  # a softmax over particles changes it by 0.17


class GlobalScale(nn.Module):
    """A scale of all data beside a latent of each datum and a decoder that takes a batch alone."""

    def __init__(self, given=None):
        super().__init__()
        self.decoder, self.encoder = Silent(1, 3), nn.Linear(3, 2)
        self.given = given

    def model(self, x):
        scale = self.given
        if scale is None:
            scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), scale.unsqueeze(-1)).to_event(1), obs=x)

    def guide(self, x):
        if self.given is None:
            pyro.sample("scale", dist.LogNormal(-0.1, 0.4))
        loc, scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.9 + 0.5 * scale.sigmoid()).to_event(1))


def test_a_global_latent_beside_such_a_network_is_scored_as_a_whole():
    pair, x = GlobalScale(), data(4)
    value, std_error, _ = evidence_of_all(pair, x, num_samples=2000)
    logs = torch.linspace(-2, 2, 33)
    given = []
    for log_scale in logs:
        pair.given = log_scale.exp()
        given.append(one_copy_at_a_time(pair, x, nodes=16).log_px.sum())
    prior = dist.Normal(0.0, 0.5).log_prob(logs).double()
    exact = (torch.stack(given) + prior).logsumexp(0) + (logs[1] - logs[0]).log()
    assert abs(value - exact) < 4.5 * std_error + 1e-3
    assert std_error < 0.15


class Sensors(nn.Module):
    """Sensors of a fixed number, in a plate of their own; the network makes one column for each."""

    def __init__(self, make):
        super().__init__()
        self.decoder, self.encoder = make(1, 3), nn.Linear(3, 2)

    def model(self, x):
        sensors = pyro.plate("sensors", 3, dim=-2)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            mean = self.decoder(z)
            with sensors:
                pyro.sample("x", dist.Normal(mean.transpose(-1, -2), 0.8), obs=x.T)

    def guide(self, x):
        loc, scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, 0.9 + 0.5 * scale.sigmoid()).to_event(1))


@pytest.mark.parametrize("make", [Rows, Silent])
def test_a_further_plate_of_a_fixed_size_keeps_its_size(make):
    pair, x = Sensors(make), data()
    reference = one_copy_at_a_time(pair, x, nodes=16)
    assert_evidence(pair, x, reference=reference)
    assert_elbo(pair, x, reference=reference)
    assert_iwae(pair, x, reference=reference)


def test_the_averaged_kl_is_that_of_one_copy_at_a_time():
    pair, x = Hierarchy(Rows), data(8)
    without = [(), ("z1", "z2"), ("z1", "z2", "x")]
    elbo, without_prior, entropy = (
        one_copy_at_a_time(pair, x, nodes=16, without=sites).elbo.mean() for sites in without
    )
    expected = (without_prior - entropy) - elbo  # E_q[log p(x | z)] - ELBO
    result = kl_decomposition(pair, x, num_samples=1000)
    assert abs(result.average_kl - expected) < 4.5 * result.std_error["average_kl"] + 1e-3


def test_objectives_train_such_networks():
    for objective in (ELBO(), FreeBits(0.1), IWAE(4), IWAE(4, doubly_reparameterised=True)):
        history = trained(Hierarchy(Rows), data(32), epochs=8, objective=objective)
        assert history["elbo"][-1] > history["elbo"][0] - 0.5


def test_gradient_variances_of_silent_networks_are_those_of_named_dimensions():
    results = []
    for dim in (1, -1):
        torch.manual_seed(0)
        results.append(gradient_variance(IWAE(5), Gated(dim), data(2).repeat(100, 1), repeats=100))
    one, other = (result.mean["gate"] for result in results)
    error = sum(result.std_error["gate"].square() for result in results) ** 0.5
    assert abs(one - other) < 4.5 * error


def test_the_evidence_is_the_same_in_pieces_and_as_a_whole():
    pair, x = Hierarchy(Silent), data(5)
    whole = marginal_likelihood(pair, x, num_samples=1500)
    pieces = [marginal_likelihood(pair, row[None], num_samples=1500) for row in x]
    off = (whole.log_px - torch.cat([piece.log_px for piece in pieces])).abs()
    errors = (whole.std_error**2 + torch.cat([piece.std_error for piece in pieces]) ** 2).sqrt()
    assert (off < 4.5 * errors).all()
