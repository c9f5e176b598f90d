"""Samples and reconstructions are what the components say."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.generation import (
    as_grey,
    class_samples,
    decode,
    interpolate,
    latent_means,
    reconstruct,
    sample_images,
    samples,
    samples_of_classes,
)
from pyrovae.likelihoods import Bernoulli, Categorical
from pyrovae.models import VAE, Autoencoder
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.programs import Pair

X_SHAPE = (1, 4, 4)


@pytest.fixture
def autoencoder():
    return Autoencoder(MLP(X_SHAPE, 2, hidden=(8,)), Bernoulli(MLP(2, X_SHAPE, hidden=(8,))))


@pytest.fixture
def x(binary_images):
    return binary_images.double()


def test_samples_are_means_decoded_from_draws_of_the_prior(make_vae):
    vae = make_vae()
    images = sample_images(vae, 7, seed=4)
    torch.manual_seed(4)
    z = vae.prior().sample((7,))
    torch.testing.assert_close(images, vae.likelihood(z).base_dist.probs.detach())
    assert images.shape == (7, *X_SHAPE)


def test_draws_have_the_moments_of_the_data_and_the_latents_of_the_means():
    loadings, n = torch.tensor([[1.0, -1.0, 0.5]]), 20_000

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, 0.5).to_event(1), obs=x)

    pair = Pair(model, lambda x: None, x_shape=(3,))
    drawn, means = samples(pair, n, seed=5), samples(pair, n, seed=5, mean=True)
    assert torch.equal(means, sample_images(pair, n, seed=5))
    noise = drawn - means  # what p(x | z) adds to E[x | z], so both are of the same z
    assert ((noise.var(0) - 0.25).abs() < 4 * 0.25 * math.sqrt(2 / n)).all()
    assert (noise.mean(0).abs() < 4 * 0.5 / math.sqrt(n)).all()
    covariance = loadings.T @ loadings + 0.25 * torch.eye(3)
    error = ((covariance.square() + torch.outer(covariance.diag(), covariance.diag())) / n).sqrt()
    assert ((drawn.T.cov() - covariance).abs() < 4 * error).all()


def test_draws_of_pixels_are_pixels_also_of_each_class(make_vae, make_m2):
    assert samples(make_vae(), 20).unique().tolist() == [0.0, 1.0]
    m2, y = make_m2(), torch.tensor([0, 0, 2])
    for draw in (
        lambda mean: class_samples(m2, 4, mean=mean),
        lambda mean: samples_of_classes(m2, y, mean=mean),
    ):
        assert draw(False).shape == draw(True).shape
        assert draw(False).unique().tolist() == [0.0, 1.0]
        assert len(draw(True).unique()) > 2


def test_levels_are_drawn_and_shown_as_grey_values():
    likelihood = Categorical(MLP(2, (256, 1, 2, 2), hidden=(8,)))
    pair = VAE(StandardNormal(2), likelihood, DiagonalNormal(MLP((1, 2, 2), 8), 2))
    levels = 255 * samples(pair, 5)
    torch.testing.assert_close(levels, levels.round())
    assert levels.max() > 1
    torch.testing.assert_close(as_grey(pair, levels.round()), levels / 255)


def test_what_is_no_level_is_shown_as_it_is(make_vae, x):
    assert as_grey(make_vae(), x) is x


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


def test_a_reconstruction_is_decoded_from_the_posteriors_mean(make_vae, autoencoder, binary_images):
    vae = make_vae()
    torch.testing.assert_close(
        reconstruct(vae, binary_images), vae.likelihood(vae.posterior(binary_images).mean).mean
    )
    torch.testing.assert_close(
        reconstruct(autoencoder, binary_images),
        autoencoder.likelihood(autoencoder.encoder(binary_images)).mean,
    )


def test_nothing_asks_for_a_gradient_and_the_mode_is_put_back(make_vae, binary_images):
    vae = make_vae().train()
    vae.likelihood.network.layers.append(torch.nn.Dropout(0.5))
    images = reconstruct(vae, binary_images)
    assert torch.equal(images, reconstruct(vae, binary_images))
    assert not images.requires_grad
    assert not interpolate(vae, binary_images[:1], binary_images[1:2]).requires_grad
    assert all(part.training for part in vae.modules())


def test_a_reconstruction_is_in_the_most_probable_class(make_m2, make_m1m2, x):
    m2 = make_m2()
    y = m2.classifier(x).probs.argmax(-1)
    z = m2.posterior(x, y).mean
    torch.testing.assert_close(reconstruct(m2, x), m2.likelihood.mean(z, y).detach())
    stack = make_m1m2()
    expected = stack.vae.likelihood(stack.vae.posterior(x).mean).mean.detach()
    torch.testing.assert_close(reconstruct(stack, x), expected)


def test_grey_levels_are_decoded_to_their_mean(binary_images):
    network = MLP(2, (256, 4, 4), hidden=(8,))
    vae = VAE(StandardNormal(2), Categorical(network), DiagonalNormal(MLP(X_SHAPE, 6, hidden=(8,)), 2))
    z = torch.randn(5, 2)
    torch.testing.assert_close(decode(vae, z), vae.likelihood.mean(z).detach())


def test_a_users_own_program_is_run_as_it_is():
    class Sums(torch.nn.Module):
        """Two latents, the second around the first, and data around their sum."""

        def model(self, x):
            with pyro.plate("these", len(x)):
                low = pyro.sample("low", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                high = pyro.sample("high", dist.Normal(2 * low, 1.0).to_event(1))
                pyro.sample("seen", dist.Normal(low + high, 1.0).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("these", len(x)):
                low = pyro.sample("low", dist.Normal(x / 3, 1.0).to_event(1))
                pyro.sample("high", dist.Normal(x - low, 1.0).to_event(1))

    x = torch.tensor([[3.0], [6.0]])
    assert latent_means(Sums(), x).flatten().tolist() == [2, 4]  # high, which is next to the data
    assert latent_means(Sums(), x, "low").flatten().tolist() == [1, 2]
    assert reconstruct(Sums(), x).flatten().tolist() == [3, 6]
    assert decode(Sums(), torch.ones(1, 1), site="low").item() == 3  # 1, and high at its mean, 2
    assert interpolate(Sums(), x[:1], x[1:], 3, site="low").flatten().tolist() == [3, 4.5, 6]
