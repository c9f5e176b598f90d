"""Traversals and manifolds are decoded at the prior's quantiles."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.generation import (
    decode,
    latent_means,
    manifold,
    prior_density,
    prior_quantiles,
    traverse,
)
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import Autoencoder
from pyrovae.networks import MLP
from pyrovae.programs import Pair

X_SHAPE = (1, 4, 4)


@pytest.fixture
def autoencoder():
    return Autoencoder(MLP(X_SHAPE, 2, hidden=(8,)), Bernoulli(MLP(2, X_SHAPE, hidden=(8,))))


@pytest.fixture
def x(binary_images):
    return binary_images.double()


def test_a_traversal_moves_one_dimension_to_the_priors_quantiles(make_vae, binary_images):
    vae, levels = make_vae(latent_dim=3), (0.1, 0.5, 0.9)
    images = traverse(vae, binary_images[0], [2, 0], levels)
    assert images.shape == (2, 3, *X_SHAPE)
    code, quantiles = latent_means(vae, binary_images[:1]), prior_quantiles(vae, levels)
    for row, dimension in enumerate((2, 0)):
        for column in range(3):
            altered = code.clone()
            altered[0, dimension] = quantiles[column, dimension]
            torch.testing.assert_close(images[row, column], decode(vae, altered)[0])


def test_a_traversal_keeps_the_class_and_lets_followers_follow(make_m2, make_m1m2, x):
    m2 = make_m2()
    y = m2.classifier(x[:1]).probs.argmax(-1)
    z, quantile = m2.posterior(x[:1], y).mean, prior_quantiles(m2, [0.9])
    z[0, 1] = quantile[0, 1]
    torch.testing.assert_close(traverse(m2, x[0], [1], [0.9])[0], m2.likelihood.mean(z, y).detach())
    stack = make_m1m2()
    moved = traverse(stack, x[0], levels=[0.9], site="z2")[0]
    z1 = stack.vae.posterior(x[:1]).mean
    label = stack.m2.classifier(z1).probs.argmax(-1)
    followed = stack.m2.likelihood(prior_quantiles(stack, [0.9], "z2"), label).mean
    torch.testing.assert_close(moved, stack.vae.likelihood(followed).mean.detach())


def test_a_dimension_that_is_not_there_is_not_traversed(make_vae, autoencoder, binary_images):
    with pytest.raises(InputError, match="there is no dimension 2; 'z' has 2"):
        traverse(make_vae(), binary_images[0], [2])
    with pytest.raises(InputError, match="Autoencoder has no prior"):
        traverse(autoencoder, binary_images[0])


def test_the_manifold_is_decoded_at_the_quantiles_with_the_second_dimension_upwards(make_vae, make_m2):
    vae = make_vae()
    images = manifold(vae, steps=3)
    assert images.shape == (3, 3, *X_SHAPE)
    quantiles = prior_quantiles(vae, [0.01, 0.5, 0.99])
    top_right = torch.stack([quantiles[2, 0], quantiles[2, 1]])[None]
    top_left = torch.stack([quantiles[0, 0], quantiles[2, 1]])[None]
    torch.testing.assert_close(images[0, 2], decode(vae, top_right)[0])
    torch.testing.assert_close(images[0, 0], decode(vae, top_left)[0])
    m2 = make_m2()
    z = prior_quantiles(m2, [0.5])
    expected = m2.likelihood.mean(z, torch.tensor([2])).detach()
    torch.testing.assert_close(manifold(m2, steps=3, label=2)[1, 1], expected[0])


def test_a_manifold_that_cannot_be_is_refused(make_vae, make_m2, autoencoder):
    with pytest.raises(InputError, match="'z' has 3 dimensions, and a plane has 2"):
        manifold(make_vae(latent_dim=3))
    with pytest.raises(InputError, match="say which class"):
        manifold(make_m2())
    with pytest.raises(InputError, match="VAE has no classes"):
        manifold(make_vae(), label=1)
    with pytest.raises(InputError, match="no prior"):
        manifold(autoencoder)
    with pytest.raises(InputError, match="steps is 1"):
        manifold(make_vae(), steps=1)


def test_latents_of_any_shape_are_traversed():
    def pair_of(shape):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(shape), 1.0).to_event(len(shape)))
                pyro.sample("x", dist.Normal(2 * z.reshape(len(x), -1), 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x.view(-1, *shape) / 2, 1.0).to_event(len(shape)))

        return Pair(model, guide)

    levels = (0.1, 0.5)
    for shape, size in (((), 1), ((2, 3), 6)):
        pair, x = pair_of(shape), torch.arange(1.0, size + 1)
        quantiles = prior_quantiles(pair, levels)
        moved = traverse(pair, x, levels=levels)
        assert (quantiles.shape, moved.shape) == ((2, size), (size, 2, size))
        expected = x.repeat(size, 2, 1)
        for d in range(size):
            expected[d, :, d] = 2 * quantiles[:, d]
        torch.testing.assert_close(moved, expected)
        density = prior_density(pair, torch.tensor([0.0, 1.0]))
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(torch.tensor([[0.0], [1.0]])).exp()
        torch.testing.assert_close(density, normal.expand(2, size))
