"""Samples, codes, reconstructions and interpolations are what the components say."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.generation import (
    analogies,
    class_samples,
    classes_behind,
    decode,
    draw_latents,
    interpolate,
    interpolate_grid,
    latent_means,
    manifold,
    prior_quantiles,
    reconstruct,
    sample_images,
    traverse,
)
from pyrovae.likelihoods import Bernoulli, Categorical
from pyrovae.models import VAE, Autoencoder
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal

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
    with pytest.raises(InputError, match=r"start at data of shape \(2, .* end at \(3, .*one end for"):
        interpolate(make_vae(), binary_images[:2], binary_images[:3])


def test_nothing_asks_for_a_gradient_and_the_mode_is_put_back(make_vae, binary_images):
    vae = make_vae().train()
    vae.likelihood.network.layers.append(torch.nn.Dropout(0.5))
    images = reconstruct(vae, binary_images)
    assert torch.equal(images, reconstruct(vae, binary_images))
    assert not images.requires_grad
    assert not interpolate(vae, binary_images[:1], binary_images[1:2]).requires_grad
    assert all(part.training for part in vae.modules())


# Models with classes


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


def test_a_reconstruction_is_in_the_most_probable_class(make_m2, make_m1m2, x):
    m2 = make_m2()
    y = m2.classifier(x).probs.argmax(-1)
    z = m2.posterior(x, y).mean
    torch.testing.assert_close(reconstruct(m2, x), m2.likelihood.mean(z, y).detach())
    stack = make_m1m2()
    expected = stack.vae.likelihood(stack.vae.posterior(x).mean).mean.detach()
    torch.testing.assert_close(reconstruct(stack, x), expected)


def test_an_interpolation_changes_class_halfway(make_m2, x):
    m2 = make_m2()
    y = m2.classifier(x).probs.argmax(-1)
    (first, *_), (last, *_) = [(y == label).nonzero().flatten().tolist() for label in y.unique()[:2]]
    lines = interpolate(m2, x[[first]], x[[last]], steps=4)
    z = m2.posterior(x, y).mean
    for step, weight in enumerate((0, 1 / 3, 2 / 3, 1)):
        code = (1 - weight) * z[first] + weight * z[last]
        label = y[first] if weight < 0.5 else y[last]
        torch.testing.assert_close(lines[0, step], m2.likelihood.mean(code, label).detach())


def test_latents_that_depend_on_the_one_that_moves_follow(make_m1m2, x):
    stack = make_m1m2()
    z1 = stack.vae.posterior(x[:2]).mean
    y = stack.m2.classifier(z1).probs.argmax(-1)
    z2 = stack.m2.posterior(z1, y).mean
    line = interpolate(stack, x[:1], x[1:2], steps=2, site="z2")
    expected = stack.vae.likelihood(stack.m2.likelihood(z2, y).mean).mean.detach()
    torch.testing.assert_close(line[0], expected)


def test_a_grid_has_four_data_at_its_corners_and_their_mean_in_the_middle(make_vae, binary_images):
    vae, corners = make_vae(), binary_images[:4]
    grid = interpolate_grid(vae, corners, steps=3)
    assert grid.shape == (3, 3, *X_SHAPE)
    ends = torch.stack([grid[0, 0], grid[0, -1], grid[-1, 0], grid[-1, -1]])
    torch.testing.assert_close(ends, reconstruct(vae, corners))
    middle = latent_means(vae, corners).mean(0, keepdim=True)
    torch.testing.assert_close(grid[1, 1], decode(vae, middle)[0])


def test_a_grid_needs_four_corners_and_two_steps(make_vae, binary_images):
    with pytest.raises(InputError, match="there are 3 images; a square has 4 corners"):
        interpolate_grid(make_vae(), binary_images[:3])
    with pytest.raises(InputError, match="steps is 1"):
        interpolate_grid(make_vae(), binary_images[:4], steps=1)


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
