"""Samples, codes, reconstructions and interpolations are what the components say."""

import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.generation import decode, interpolate, latent_means, reconstruct, sample_images
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import Autoencoder
from pyrovae.networks import MLP

X_SHAPE = (1, 4, 4)


@pytest.fixture
def autoencoder():
    return Autoencoder(MLP(X_SHAPE, 2, hidden=(8,)), Bernoulli(MLP(2, X_SHAPE, hidden=(8,))))


def test_samples_are_means_decoded_from_draws_of_the_prior(make_vae):
    vae = make_vae()
    images = sample_images(vae, 7, seed=4)
    torch.manual_seed(4)
    z = vae.prior().sample((7,))
    torch.testing.assert_close(images, vae.likelihood(z).base_dist.probs.detach())
    assert images.shape == (7, *X_SHAPE)


def test_a_seed_fixes_the_samples_and_the_callers_stream_stays(make_vae):
    vae = make_vae()
    before = torch.get_rng_state()
    assert torch.equal(sample_images(vae, 3, seed=1), sample_images(vae, 3, seed=1))
    assert not torch.equal(sample_images(vae, 3, seed=1), sample_images(vae, 3, seed=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_autoencoder_has_nothing_to_sample_from(autoencoder):
    with pytest.raises(InputError, match="Autoencoder has no prior over z, so it cannot generate"):
        sample_images(autoencoder, 3)


def test_a_count_below_1_is_refused(make_vae):
    with pytest.raises(InputError, match="count is 0"):
        sample_images(make_vae(), 0)


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
    torch.testing.assert_close(decode(vae, codes)[1000:], vae.likelihood.mean(codes[1000:]))


def test_a_reconstruction_is_decoded_from_the_posteriors_mean(make_vae, autoencoder, binary_images):
    vae = make_vae()
    torch.testing.assert_close(
        reconstruct(vae, binary_images), vae.likelihood(vae.posterior(binary_images).mean).mean
    )
    torch.testing.assert_close(
        reconstruct(autoencoder, binary_images),
        autoencoder.likelihood(autoencoder.encoder(binary_images)).mean,
    )


def test_an_interpolation_is_a_straight_line_between_the_codes(make_vae, binary_images):
    vae = make_vae()
    start, end = binary_images[:3], binary_images[3:6]
    lines = interpolate(vae, start, end, steps=5)
    assert lines.shape == (3, 5, *X_SHAPE)
    torch.testing.assert_close(lines[:, 0], reconstruct(vae, start))
    torch.testing.assert_close(lines[:, -1], reconstruct(vae, end))
    middle = (latent_means(vae, start) + latent_means(vae, end)) / 2
    torch.testing.assert_close(lines[:, 2], decode(vae, middle))


def test_a_line_has_two_ends(make_vae, binary_images):
    assert interpolate(make_vae(), binary_images[:1], binary_images[1:2], steps=2).shape[1] == 2
    with pytest.raises(InputError, match="steps is 1; a line needs at least its 2 ends"):
        interpolate(make_vae(), binary_images[:1], binary_images[1:2], steps=1)


def test_nothing_asks_for_a_gradient_and_the_mode_is_put_back(make_vae, binary_images):
    vae = make_vae().train()
    vae.likelihood.network.layers.append(torch.nn.Dropout(0.5))
    images = reconstruct(vae, binary_images)
    assert torch.equal(images, reconstruct(vae, binary_images))
    assert not images.requires_grad
    assert not interpolate(vae, binary_images[:1], binary_images[1:2]).requires_grad
    assert all(part.training for part in vae.modules())
