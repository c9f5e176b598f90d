"""DiagonalNormalMixture: its precision, gradients and moments."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyrovae.distributions import DiagonalNormalMixture


@pytest.mark.parametrize("scale", [1.0, 0.01])
@pytest.mark.parametrize("far", [0.0, 30.0, 1000.0])
def test_a_mixture_in_32_bit_is_right_to_its_rounding(scale, far):
    loc = far + torch.randn(50, 40)
    mixture = DiagonalNormalMixture(torch.randn(50), loc, torch.full((50, 40), scale))
    near, away = loc[:20] + scale * torch.randn(20, 40), far + torch.randn(20, 40)
    for z in (near, away):
        exact = dist.MixtureSameFamily(
            dist.Categorical(logits=mixture.log_weights.double()),
            dist.Normal(loc.double(), mixture.scale.double()).to_event(1),
        ).log_prob(z.double())
        found = mixture.log_prob(z)
        assert found.dtype == torch.float32
        assert ((found.double() - exact).abs() <= 1.2e-7 * exact.abs()).all()


def test_gradients_of_a_sharp_mixture_in_32_bit_are_right_to_their_rounding():
    loc, log_scale = 30 + torch.randn(50, 40), torch.full((50, 40), math.log(0.01))
    z = loc[:20] + 0.01 * torch.randn(20, 40)
    single = [loc.requires_grad_(), log_scale.requires_grad_(), z.requires_grad_()]
    double = [value.detach().double().requires_grad_() for value in single]
    scale = double[1].exp().float().double()  # the same as the one rounded below
    exact = dist.MixtureSameFamily(
        dist.Categorical(logits=torch.zeros(50).double()), dist.Normal(double[0], scale).to_event(1)
    )
    found = DiagonalNormalMixture(torch.zeros(50), loc, log_scale.exp())
    pairs = zip(
        torch.autograd.grad(found.log_prob(z).sum(), single),
        torch.autograd.grad(exact.log_prob(double[2]).sum(), double),
        strict=True,
    )
    for ours, expected in pairs:
        # Up to the error that the rounded scale itself brings in.
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5 * expected.abs().max())


def test_moments_of_a_mixture_are_those_of_its_draws():
    weights = torch.tensor([0.2, 0.5, 0.3]).double()
    loc = torch.tensor([[-2.0, 1.0], [0.0, 5.0], [3.0, 1.0]]).double()
    mixture = DiagonalNormalMixture(weights.log() + 7, loc, loc.abs() + 0.1).expand((2,))
    draws = mixture.sample((20_000,))
    assert draws.shape == (20_000, 2, 2)
    assert mixture.mean.shape == mixture.variance.shape == (2, 2)
    error = mixture.variance.sqrt() / math.sqrt(len(draws))
    assert ((draws.mean(0) - mixture.mean).abs() < 4 * error).all()
    spread = (draws - draws.mean(0)).square()
    error = spread.std(0) / math.sqrt(len(draws))
    assert ((spread.mean(0) - mixture.variance).abs() < 4 * error).all()
