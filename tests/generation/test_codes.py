"""Codes are the guide's means and modes, and its draws follow it."""

import math

import pytest
import torch

from pyrovae import generation
from pyrovae.errors import InputError
from pyrovae.generation import (
    latent_codes,
    latent_means,
    posterior_draws,
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


X_SHAPE = (1, 4, 4)


def test_codes_are_the_guides_means_and_modes(make_m2, make_m1m2, x):
    m2 = make_m2()
    codes = latent_codes(m2, x)
    y = m2.classifier(x).probs.argmax(-1)
    assert torch.equal(codes["y"], y)
    torch.testing.assert_close(codes["z"], m2.posterior(x, y).mean.detach())
    stack = make_m1m2()
    z1 = stack.vae.posterior(x).mean.detach()
    torch.testing.assert_close(latent_means(stack, x), z1)
    label = stack.m2.classifier(z1).probs.argmax(-1)
    torch.testing.assert_close(latent_means(stack, x, "z2"), stack.m2.posterior(z1, label).mean.detach())


def test_posterior_draws_are_the_guides(make_vae, binary_images):
    vae = make_vae()
    draws = posterior_draws(vae, binary_images.repeat(400, 1, 1, 1)).unflatten(0, (400, -1))
    q = vae.posterior(binary_images)
    error = q.variance.sqrt() / math.sqrt(400)
    assert ((draws.mean(0) - q.mean).abs() < 5 * error).all()
    torch.testing.assert_close(draws.std(0), q.variance.sqrt().detach(), rtol=0.2, atol=0)
    again = [posterior_draws(vae, binary_images, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])


def test_a_code_without_a_distribution_has_no_draws(autoencoder, binary_images):
    with pytest.raises(InputError, match="Autoencoder has no prior over z"):
        posterior_draws(autoencoder, binary_images)


def test_latent_means_are_the_posteriors_and_an_autoencoders_code(make_vae, autoencoder, binary_images):
    vae = make_vae()
    assert torch.equal(latent_means(vae, binary_images), vae.posterior(binary_images).mean)
    assert torch.equal(latent_means(autoencoder, binary_images), autoencoder.encoder(binary_images))


def test_many_data_are_encoded_and_decoded_in_parts_without_a_difference(make_vae, binary_images):
    vae = make_vae()
    many = binary_images.repeat(50, 1, 1, 1)
    codes = latent_means(vae, many)
    assert codes.shape == (1200, 2)
    torch.testing.assert_close(codes[1000:], vae.posterior(many[1000:]).mean)
    torch.testing.assert_close(generation.decode(vae, codes)[1000:], vae.likelihood.mean(codes[1000:]))
