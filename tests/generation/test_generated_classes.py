"""Images in each class are what the components say."""

import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.generation import (
    analogies,
    class_samples,
    classes_behind,
    decode,
    draw_latents,
)
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import Autoencoder
from pyrovae.networks import MLP

X_SHAPE = (1, 4, 4)


@pytest.fixture
def autoencoder():
    return Autoencoder(MLP(X_SHAPE, 2, hidden=(8,)), Bernoulli(MLP(2, X_SHAPE, hidden=(8,))))


@pytest.fixture
def x(binary_images):
    return binary_images.double()


def test_decoding_in_a_class_is_the_likelihoods_mean(make_m2, make_m1m2):
    m2, z = make_m2(), torch.randn(6, 2).double()
    y = torch.arange(6) % 3
    torch.testing.assert_close(decode(m2, z, y), m2.likelihood.mean(z, y).detach())
    stack, z2 = make_m1m2(), torch.randn(6, 1).double()
    z1 = stack.m2.likelihood(z2, y).mean
    torch.testing.assert_close(decode(stack, z2, y, site="z2"), stack.vae.likelihood(z1).mean.detach())
    torch.testing.assert_close(decode(stack, z1.detach()), stack.vae.likelihood(z1).mean.detach())


def test_a_class_is_asked_for_where_x_depends_on_one_and_only_there(make_m2, make_m1m2, make_cpcvae):
    z, y = torch.zeros(3, 2).double(), torch.zeros(3, dtype=torch.long)
    with pytest.raises(InputError, match="x depends on the class 'y' as well as on 'z'"):
        decode(make_m2(), z)
    with pytest.raises(InputError, match="x depends on the class 'y' as well as on 'z2'"):
        decode(make_m1m2(), z[:, :1], site="z2")
    for model in (make_cpcvae(), make_m1m2()):
        with pytest.raises(InputError, match="x does not depend on a class"):
            decode(model, z, y)
    with pytest.raises(InputError, match="the classes go from 3 to 3; there are 3"):
        decode(make_m2(), z, y + 3)
    assert classes_behind(make_m2()) == {"y"} == classes_behind(make_m1m2(), "z2")
    assert classes_behind(make_m1m2()) == set() == classes_behind(make_cpcvae())


def test_class_samples_are_decoded_from_draws_given_the_class(make_m2, make_m1m2, make_cpcvae):
    m2 = make_m2()
    images = class_samples(m2, 4, seed=3)
    assert images.shape == (3, 4, *X_SHAPE)
    for label in range(3):
        z = draw_latents(m2, 4, label, seed=3 + label)["z"]
        expected = m2.likelihood.mean(z, torch.full((4,), label)).detach()
        torch.testing.assert_close(images[label], expected)
    assert class_samples(make_m1m2(), 4).shape == class_samples(make_cpcvae(), 4).shape == images.shape


def test_analogies_hold_the_style_and_set_the_class(make_m2, make_m1m2, x):
    m2 = make_m2()
    images = analogies(m2, x[:5])
    assert images.shape == (5, 3, *X_SHAPE)
    z = m2.posterior(x[:5], m2.classifier(x[:5]).probs.argmax(-1)).mean
    for label in range(3):
        expected = m2.likelihood.mean(z, torch.full((5,), label)).detach()
        torch.testing.assert_close(images[:, label], expected)
    stack = make_m1m2()
    z1 = stack.vae.posterior(x[:5]).mean
    z2 = stack.m2.posterior(z1, stack.m2.classifier(z1).probs.argmax(-1)).mean
    followed = stack.m2.likelihood(z2, torch.full((5,), 1)).mean
    torch.testing.assert_close(analogies(stack, x[:5])[:, 1], stack.vae.likelihood(followed).mean.detach())


def test_analogies_need_a_class_that_makes_x(make_vae, make_cpcvae, x):
    with pytest.raises(InputError, match="VAE has no classes: train m2"):
        analogies(make_vae(), x.float())
    with pytest.raises(InputError, match="the class 'y' is predicted from the latents"):
        analogies(make_cpcvae(), x)
    with pytest.raises(InputError, match="VAE has no classes"):
        class_samples(make_vae())
