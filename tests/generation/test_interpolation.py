"""Interpolations are straight lines between codes."""

import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.generation import (
    decode,
    interpolate,
    interpolate_grid,
    latent_means,
    reconstruct,
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
    with pytest.raises(InputError, match="steps is 1; it must be a whole number of at least 2"):
        interpolate(make_vae(), binary_images[:1], binary_images[1:2], steps=1)
    with pytest.raises(InputError, match=r"start at data of shape \(2, .* end at \(3, .*one end for"):
        interpolate(make_vae(), binary_images[:2], binary_images[:3])


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
