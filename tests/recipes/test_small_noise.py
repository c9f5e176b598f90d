"""A Gaussian likelihood whose noise falls to 0 is told, since log p(x) then grows without bound."""

import warnings

import pytest
import torch

from pyrovae.likelihoods import Gaussian
from pyrovae.models import VAE
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.recipes import About, Training, vae
from pyrovae.recipes.small_noise import warn_of_small_noise


def gaussian_vae(scale):
    return VAE(
        prior=StandardNormal(2),
        likelihood=Gaussian(MLP(2, (5,), hidden=(4,)), scale=scale),
        posterior=DiagonalNormal(MLP((5,), 6, hidden=(4,)), 2),
    )


def test_the_noise_is_compared_with_the_spread_of_the_data():
    x = 3 + torch.tensor([[-2.0], [2.0]]).expand(2, 5)  # standard deviation 2 about the mean of 3
    with pytest.warns(UserWarning, match=r"has fallen to 0\.098, 4\.9% of the standard deviation"):
        warn_of_small_noise(gaussian_vae(0.098), x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_small_noise(gaussian_vae(0.102), x)
        warn_of_small_noise(gaussian_vae(0.001), torch.randn(9, 3))  # of data of another shape


def test_training_on_constant_data_ends_with_a_warning():
    x = torch.ones(20, 4)
    plan = vae(About.of(x), latent_dim=2, width=8, likelihood="gaussian")
    training = Training(epochs=1, validation_fraction=0.0)
    with pytest.warns(UserWarning, match="the noise of the Gaussian likelihood has fallen to"):
        plan.fit(x, training=training, device="cpu")
