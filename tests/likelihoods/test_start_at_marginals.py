"""Likelihoods that start at the frequencies of the data."""

import math

import pytest
import torch
from torch import nn

from pyrovae.errors import InputError
from pyrovae.likelihoods import Bernoulli, Categorical, ContinuousBernoulli, Gaussian
from pyrovae.networks import MLP, ConvDecoder, ResidualMLP


class Fixed(nn.Module):
    """A network whose output is given, whatever z is."""

    def __init__(self, out):
        super().__init__()
        self.out, self.out_shape = out, out.shape

    def forward(self, z):
        return self.out.expand(*z.shape[:-1], *self.out_shape)


Z = torch.zeros(1, 2).double()


class Bias(nn.Module):
    """A network that is its last bias and nothing else."""

    def __init__(self, *out_shape):
        super().__init__()
        self.out_shape = out_shape
        self.output_bias = nn.Parameter(torch.zeros(math.prod(out_shape)).double())

    def forward(self, z):
        return self.output_bias.unflatten(0, self.out_shape).expand(*z.shape[:-1], *self.out_shape)


@pytest.mark.parametrize("likelihood", [Bernoulli, ContinuousBernoulli, Gaussian])
def test_the_means_start_at_the_datas(likelihood):
    x = 0.1 + 0.8 * torch.rand(50, 2, 3, 4).double()
    started = likelihood(Bias(2, 3, 4)).double()
    started.start_at_marginals(x)
    torch.testing.assert_close(started.mean(Z)[0], x.mean(0))


def test_a_gaussians_scale_starts_at_the_datas_spread_about_their_mean():
    x = torch.randn(4000, 2, 3) * 0.3 + torch.randn(2, 3)
    started = Gaussian(MLP(2, (2, 3)))
    started.start_at_marginals(x)
    assert started.log_scale.exp().item() == pytest.approx(0.3, rel=0.05)


def test_a_categorical_starts_at_the_frequencies_of_the_levels():
    x = torch.randint(0, 256, (3000, 1, 2, 2)).double() // 64 * 64
    x[:, 0, 0, 0] = 200
    started = Categorical(Bias(256, 2, 2))
    started.start_at_marginals(x)
    probs = started(Z).base_dist.probs[0]
    frequencies = torch.stack([(x == level).double().mean(0) for level in range(256)], -1)
    torch.testing.assert_close(probs, frequencies, atol=2e-3, rtol=0)
    assert (probs > 0).all()


@pytest.mark.parametrize(
    "network", [MLP(2, (1, 8, 8)), ResidualMLP(2, (1, 8, 8), width=8)], ids=["mlp", "res"]
)
def test_data_of_frequent_ink_are_likelier_from_the_start(network):
    x = (torch.rand(200, 1, 8, 8) < torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)).float()
    likelihood, z = Bernoulli(network), torch.randn(200, 2)
    before = likelihood(z).log_prob(x).mean()
    likelihood.start_at_marginals(x)
    assert likelihood(z).log_prob(x).mean() > before + 5
    always, never = likelihood.mean(z)[:, 0, -1, -1], likelihood.mean(z)[:, 0, 0, 0]
    assert always.min() > 0.9
    assert never.max() < 0.1


def test_a_convolutions_bias_starts_at_its_channels_average():
    x = torch.rand(20, 3, 8, 8)
    network = ConvDecoder(2, (3, 8, 8), channels=4)
    Gaussian(network).start_at_marginals(x)
    torch.testing.assert_close(network.output_bias.detach(), x.mean((0, 2, 3)))


def test_a_network_without_output_bias_and_data_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"Fixed .*`output_bias`"):
        Bernoulli(Fixed(torch.zeros(1, 4, 4))).start_at_marginals(torch.zeros(5, 1, 4, 4))
    with pytest.raises(InputError, match=r"\(5, 1, 4, 5\).*\(1, 4, 4\)"):
        Bernoulli(MLP(2, (1, 4, 4))).start_at_marginals(torch.zeros(5, 1, 4, 5))
