"""Draws, quantiles and densities of the prior, against closed forms and grids."""

import numpy as np
import pytest
import torch
from pyro.distributions import MultivariateNormal

from pyrovae.errors import InputError
from pyrovae.generation import (
    draw_latents,
    prior_density,
    prior_quantiles,
)
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import Autoencoder
from pyrovae.networks import MLP


@pytest.fixture
def x(binary_images):
    return binary_images.double()


@pytest.fixture
def autoencoder():
    return Autoencoder(MLP((1, 4, 4), 2, hidden=(8,)), Bernoulli(MLP(2, (1, 4, 4), hidden=(8,))))


def test_quantiles_of_a_standard_normal(make_vae):
    levels = (0.05, 0.5, 0.8)
    expected = torch.distributions.Normal(0, 1).icdf(torch.tensor(levels))[:, None].expand(3, 2)
    torch.testing.assert_close(prior_quantiles(make_vae(), levels), expected, atol=0.07, rtol=0)


def test_the_density_of_a_standard_normal_is_exact(make_vae):
    points = torch.linspace(-3, 3, 7)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(points).exp()
    torch.testing.assert_close(prior_density(make_vae(), points), expected[:, None].expand(7, 2))


def test_the_density_of_a_latent_beneath_others_is_their_mixture(make_m1m2):
    stack, points = make_m1m2(), torch.linspace(-8, 8, 801).double()
    density = prior_density(stack, points, "z1", draws=4000)
    torch.testing.assert_close(density.sum(0) * 0.02, torch.ones(2).double(), atol=0.01, rtol=0)
    nodes = torch.linspace(-6, 6, 601).double()
    weights = torch.distributions.Normal(0.0, 1.0).log_prob(nodes).exp() * 0.02 / 3
    expected = torch.zeros_like(density)
    for label in range(3):
        given = stack.m2.likelihood(nodes[:, None], torch.full((601,), label)).base_dist
        terms = given.log_prob(points[:, None, None]).exp() * weights[:, None]
        expected += terms.sum(1).detach()
    assert (density - expected).abs().max() < 0.02


def test_a_density_that_does_not_factorise_is_a_histogram_of_draws(make_vae):
    class Correlated(torch.nn.Module):
        def forward(self):
            covariance = torch.tensor([[1.0, 0.5], [0.5, 4.0]])
            return MultivariateNormal(torch.zeros(2), covariance)

    vae = make_vae()
    vae.prior = Correlated()
    points = torch.tensor([-9.0, -1.0, 0.0, 1.0, 20.0])
    density = prior_density(vae, points, draws=20_000)
    for dimension, scale in enumerate((1.0, 2.0)):
        exact = torch.distributions.Normal(0.0, scale).log_prob(points).exp()
        torch.testing.assert_close(density[:, dimension], exact.double(), atol=0.03, rtol=0)


def test_draws_without_a_class_are_ancestral(make_m2):
    m2 = make_m2()
    draws = draw_latents(m2, 3000, seed=5)
    shares = draws["y"].bincount(minlength=3) / 3000
    torch.testing.assert_close(shares.double(), m2.class_prior().probs.detach(), atol=0.04, rtol=0)
    assert draws["z"].mean(0).abs().max() < 0.1
    before = torch.get_rng_state()
    assert torch.equal(draws["z"], draw_latents(m2, 3000, seed=5)["z"])
    assert torch.equal(torch.get_rng_state(), before)


def test_where_the_class_comes_first_draws_given_it_are_the_priors(make_m2, make_m1m2):
    m2 = make_m2()
    first, second = (draw_latents(m2, 50, label, seed=1) for label in (0, 2))
    assert (first["y"] == 0).all()
    assert (second["y"] == 2).all()
    assert torch.equal(first["z"], second["z"])
    stack = make_m1m2()
    draws = draw_latents(stack, 4000, 1)
    expected = stack.m2.likelihood(draws["z2"], draws["y"]).mean.mean(0).detach()
    torch.testing.assert_close(draws["z1"].mean(0), expected, atol=0.1, rtol=0)


def test_where_the_class_is_predicted_draws_given_it_follow_p_z_given_y(make_cpcvae):
    pcvae = make_cpcvae()
    with torch.no_grad():
        pcvae.classifier.network.layers[-1].weight.mul_(6)
    side = torch.linspace(-5, 5, 201).double()
    z = torch.cartesian_prod(side, side)
    log_prior = -z.square().sum(-1) / 2
    for label in range(3):
        draws = draw_latents(pcvae, 2000, label, candidates=20)["z"]
        exact = (log_prior + pcvae.classifier(z).logits[:, label]).softmax(0).detach()
        mean = (exact[:, None] * z).sum(0)
        torch.testing.assert_close(draws.mean(0), mean, atol=0.1, rtol=0)
        for quadrant in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            signs = torch.tensor(quadrant)
            expected = exact[(z * signs > 0).all(-1)].sum()
            found = (draws * signs > 0).all(-1).double().mean()
            assert abs(found - expected) < 0.05


def test_no_draw_is_repeated_while_there_are_others_as_good(make_cpcvae):
    draws = draw_latents(make_cpcvae(), 50, 1)["z"]
    assert len(draws.unique(dim=0)) == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count is 0"),
        ({"count": 1, "candidates": 0}, "candidates is 0"),
        ({"count": 1, "label": 3}, "class 3 was asked for; there are 3, counted from 0"),
        ({"count": 1, "label": -1}, "class -1 was asked for"),
    ],
    ids=str,
)
def test_draws_that_cannot_be_are_refused(options, message, make_m2):
    with pytest.raises(InputError, match=message):
        draw_latents(make_m2(), **options)


def test_many_draws_come_in_parts(make_vae):
    draws = draw_latents(make_vae(), 2500)["z"]
    assert draws.shape == (2500, 2)
    assert len(np.unique(draws.numpy(), axis=0)) == 2500
