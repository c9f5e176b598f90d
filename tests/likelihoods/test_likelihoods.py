"""Likelihoods: their densities written out, or summed and integrated by brute force."""

import ast
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from pyrovae.errors import InputError
from pyrovae.likelihoods import Bernoulli, Categorical, ContinuousBernoulli, Gaussian
from pyrovae.networks import MLP


class Fixed(nn.Module):
    """A network whose output is given, whatever z is."""

    def __init__(self, out):
        super().__init__()
        self.out, self.out_shape = out, out.shape

    def forward(self, z):
        return self.out.expand(*z.shape[:-1], *self.out_shape)


Z = torch.zeros(1, 2).double()
# From far left of 0 over its neighbourhood, where the formula is 0/0, to far right.
LOGITS = [-90.0, -20.0, -3.0, -0.1, -4e-3, -1e-6, 0.0, 1e-9, 2e-3, 0.099, 0.101, 1.0, 20.0, 60.0]


def test_bernoulli_written_out():
    logits, x = torch.randn(2, 3, 4).double(), torch.rand(1, 2, 3, 4).double().round()
    p = 1 / (1 + (-logits).exp())
    by_hand = (x * p.log() + (1 - x) * (1 - p).log()).sum((1, 2, 3))
    torch.testing.assert_close(Bernoulli(Fixed(logits))(Z).log_prob(x), by_hand)


def test_gaussian_written_out_with_a_scale_that_is_no_variance():
    mean, x = torch.randn(2, 3, 4).double(), torch.randn(1, 2, 3, 4).double()
    by_hand = (-0.5 * ((x - mean) / 0.3) ** 2 - math.log(0.3) - 0.5 * math.log(2 * math.pi)).sum((1, 2, 3))
    likelihood = Gaussian(Fixed(mean), scale=0.3).double()
    with torch.no_grad():
        likelihood.log_scale.fill_(math.log(0.3))  # in 64-bit
    torch.testing.assert_close(likelihood(Z).log_prob(x), by_hand)


def test_a_network_without_logits_for_all_levels_is_told_its_shape():
    for shape, needed in (((1, 8, 8), "(256, 8, 8)"), ((3, 4), "(768, 4)"), ((7,), "(1792,)")):
        with pytest.raises(
            InputError, match=re.escape(f"out_shape {shape}, and it needs 256 outputs")
        ) as e:
            Categorical(MLP(3, shape))
        assert str(e.value).endswith(f"give it out_shape {needed}.")
        assert Categorical(MLP(3, ast.literal_eval(needed))).x_shape == shape  # the remedy


def gauss_legendre(edges, order=40):
    """Nodes and weights of the quadrature on each piece between the edges."""
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(order))
    edges = torch.tensor(edges).double()
    low, half = edges[:-1, None], edges.diff()[:, None] / 2
    return (low + half * (nodes + 1)).flatten(), (half * weights).flatten()


@pytest.mark.parametrize("logit", LOGITS)
def test_the_continuous_bernoulli_integrates_to_one_and_has_its_mean(logit):
    # Short pieces at the ends, where the mass is at large logits.
    x, weight = gauss_legendre([0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1])
    likelihood = ContinuousBernoulli(Fixed(torch.tensor([logit]).double()))
    density = likelihood(Z.expand(len(x), 2)).log_prob(x[:, None]).exp()
    assert (density * weight).sum().item() == pytest.approx(1, abs=1e-10)
    assert likelihood.mean(Z).item() == pytest.approx((density * weight * x).sum().item(), abs=1e-10)


@pytest.mark.parametrize("logit", LOGITS)
def test_the_continuous_bernoulli_in_32_bit_agrees_with_64_bit(logit):
    x = torch.tensor([[0.0], [0.3], [1.0]])
    double = ContinuousBernoulli(Fixed(torch.tensor([logit]).double()))
    single = ContinuousBernoulli(Fixed(torch.tensor([logit])))
    exact = double(Z.expand(3, 2)).log_prob(x.double())
    torch.testing.assert_close(
        single(Z.expand(3, 2).float()).log_prob(x).double(), exact, atol=1e-5, rtol=1e-6
    )
    assert single.mean(Z.float()).item() == pytest.approx(double.mean(Z).item(), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_continuous_bernoullis_gradient_is_its_residual(dtype):
    # An exponential family: d log p(x) / d logit = x - E[x].
    logits = torch.tensor(LOGITS, dtype=dtype, requires_grad=True)
    likelihood = ContinuousBernoulli(Fixed(logits))
    x = torch.rand(1, len(LOGITS), dtype=dtype)
    likelihood(Z.to(dtype)).log_prob(x).sum().backward()
    torch.testing.assert_close(logits.grad, (x - likelihood.mean(Z.to(dtype)))[0], atol=2e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", LOGITS)
def test_draws_of_the_continuous_bernoulli_follow_its_density(logit, dtype):
    torch.manual_seed(0)
    likelihood = ContinuousBernoulli(Fixed(torch.tensor([logit], dtype=dtype)))
    draws = likelihood(Z.to(dtype).expand(20_000, 2)).sample()
    assert draws.min() >= 0
    assert draws.max() <= 1
    error = draws.std().item() / len(draws) ** 0.5
    assert draws.mean().item() == pytest.approx(likelihood.mean(Z.to(dtype)).item(), abs=4 * error)
    # A quantile too: the mass below the median of the density, integrated.
    median = draws.double().median().item()
    x, weight = gauss_legendre([0, median / 4, median / 2, median])
    density = likelihood(Z.to(dtype).expand(len(x), 2)).log_prob(x[:, None].to(dtype)).double().exp()
    assert (density * weight).sum().item() == pytest.approx(0.5, abs=4 * 0.5 / len(draws) ** 0.5)


def test_the_categorical_sums_to_one_over_the_levels_of_each_pixel():
    likelihood = Categorical(Fixed(torch.randn(256 * 3, 2, 1).double()))
    per_pixel = likelihood(Z).base_dist
    levels = torch.arange(256.0).view(-1, 1, 1, 1, 1).double()
    torch.testing.assert_close(
        per_pixel.log_prob(levels).exp().sum(0), torch.ones(1, 3, 2, 1).double(), atol=1e-12, rtol=0
    )


def test_the_categorical_reads_the_logit_of_its_own_channel_pixel_and_level():
    channels, height, width = 3, 2, 4
    logits = torch.randn(256 * channels, height, width).double()
    x = torch.randint(256, (1, channels, height, width)).double()
    by_hand = 0.0
    for c in range(channels):
        for h in range(height):
            for w in range(width):
                own = logits[256 * c : 256 * (c + 1), h, w]  # a channel's levels lie side by side
                by_hand += (own[int(x[0, c, h, w])] - own.exp().sum().log()).item()
    likelihood = Categorical(Fixed(logits))
    assert likelihood(Z).log_prob(x).item() == pytest.approx(by_hand, abs=1e-9)


def test_the_categorical_mean_is_the_grey_value_of_its_levels():
    logits = torch.full((256 * 2, 1, 1), -1e3).double()
    logits[255], logits[256 + 51] = 0.0, 0.0  # first channel white, second a fifth of it
    mean = Categorical(Fixed(logits)).mean(Z)
    torch.testing.assert_close(mean, torch.tensor([1.0, 0.2]).double().view(1, 2, 1, 1))


@pytest.mark.parametrize("family", [Bernoulli, ContinuousBernoulli, Gaussian, Categorical])
def test_the_mean_image_is_the_mean_of_many_draws(family):
    torch.manual_seed(0)
    levels = 256 if family is Categorical else 1
    likelihood = family(Fixed(torch.randn(2 * levels, 3, 1).double())).double()
    draws = likelihood(Z).sample((20_000,))[:, 0].double() / (255 if family is Categorical else 1)
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - likelihood.mean(Z)[0]).abs() < 4 * error).all()


# Starting at the marginals
