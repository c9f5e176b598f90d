"""The deep Markov model of Pyro's examples: sequences of several lengths, a backward recurrent guide."""

import pyro
import pyro.distributions as dist
import torch
from one_copy import assert_evidence, assert_like_pyro, one_copy_at_a_time, trained
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

from pyrovae.evaluation import marginal_likelihood
from pyrovae.objectives import ELBO


class GatedTransition(nn.Module):
    def __init__(self, z_dim, linear):
        super().__init__()
        self.loc = nn.Linear(z_dim, z_dim)
        if not linear:
            self.gate, self.proposal = nn.Linear(z_dim, z_dim), nn.Linear(z_dim, z_dim)
        self.linear = linear

    def forward(self, z):
        if self.linear:
            return self.loc(z), 0.8
        gate = self.gate(z).sigmoid()
        return (1 - gate) * self.loc(z) + gate * self.proposal(z).relu(), 0.8


class DMM(nn.Module):
    def __init__(self, z_dim=1, x_dim=2, linear=False):
        super().__init__()
        self.transition = GatedTransition(z_dim, linear)
        self.emission = nn.Linear(z_dim, x_dim)
        self.rnn = nn.RNN(x_dim, 3, batch_first=True)
        self.combine = nn.Linear(z_dim, 3)
        self.to_q = nn.Linear(3, 2 * z_dim)
        self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(z_dim)), nn.Parameter(torch.zeros(z_dim))

    def model(self, x, lengths):
        pyro.module("dmm", self)
        with pyro.plate("data", len(x)):
            z = self.z_0.expand(len(x), -1)
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=t < lengths):
                    loc, scale = self.transition(z)
                    z = pyro.sample(f"z_{t + 1}", dist.Normal(loc, scale).to_event(1))
                    likelihood = dist.Normal(self.emission(z), 1.0).to_event(1)
                    pyro.sample(f"obs_x_{t + 1}", likelihood, obs=x[:, t])

    def guide(self, x, lengths):
        pyro.module("dmm", self)
        states = self.rnn(reverse(x, lengths))[0]
        states = reverse(states, lengths)
        with pyro.plate("data", len(x)):
            z = self.z_q_0.expand(len(x), -1)
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=t < lengths):
                    h = 0.5 * (self.combine(z).tanh() + states[:, t])
                    loc, scale = self.to_q(h).chunk(2, -1)
                    z = pyro.sample(f"z_{t + 1}", dist.Normal(loc, 0.5 + scale.sigmoid()).to_event(1))


def reverse(x, lengths):
    """Return each sequence in reversed order, padded behind."""
    steps = torch.arange(x.shape[1])
    order = (lengths[:, None] - 1 - steps) % x.shape[1]
    return x.gather(1, order.unsqueeze(-1).expand_as(x))


def kalman(dmm, x, lengths):
    """log p(x) of a linear model with one latent dimension, `(N,)`, from the joint normal density."""
    slope, shift = dmm.transition.loc.weight.item(), dmm.transition.loc.bias.item()
    log_px = []
    for row, length in zip(x, lengths.tolist(), strict=True):
        mean, mixing = torch.zeros(length), torch.zeros(length, length)
        for t in range(length):
            previous = mean[t - 1] if t else dmm.z_0.detach()[0]
            mean[t] = slope * previous + shift
            mixing[t, : t + 1] = torch.tensor([slope ** (t - s) for s in range(t + 1)]) * 0.8
        weight = torch.kron(torch.eye(length), dmm.emission.weight.detach())
        bias = dmm.emission.bias.detach().repeat(length)
        covariance = weight @ mixing @ mixing.T @ weight.T + torch.eye(len(weight))
        seen = dist.MultivariateNormal(weight @ mean + bias, covariance)
        log_px.append(seen.log_prob(row[:length].flatten()))
    return torch.stack(log_px).double()


def sequences(num_data=5, steps=3):
    return torch.randn(num_data, steps, 2), torch.arange(num_data) % steps + 1


def test_bounds_and_gradients_are_those_of_pyro(param_store):
    assert_like_pyro(ELBO(), Trace_ELBO(), DMM(), *sequences())


def test_the_evidence_of_sequences_of_several_lengths_is_the_kalman_filters(param_store):
    dmm, (x, lengths) = DMM(linear=True), sequences()
    exact = kalman(dmm, x, lengths)
    result = marginal_likelihood(dmm, x, lengths, num_samples=4000)
    assert ((result.log_px - exact).abs() < 4.5 * result.std_error + 1e-4).all()
    assert result.std_error.max() < 0.1


def test_the_evidence_of_gated_transitions_is_that_of_one_copy_at_a_time(param_store):
    dmm, (x, lengths) = DMM(), sequences(3, steps=2)
    reference = one_copy_at_a_time(dmm, x, lengths, nodes=14)
    assert_evidence(dmm, x, lengths, reference=reference)


def test_it_trains_up_to_the_evidence(param_store):
    dmm, (x, lengths) = DMM(linear=True), sequences(32)
    history = trained(dmm, x, lengths, epochs=15)
    assert history["elbo"][-1] > history["elbo"][0]
    assert history["elbo"][-1] < kalman(dmm, x, lengths).mean() + 0.2
