"""The VAE of Pyro's tutorial: softplus layers, a flattened Bernoulli, `pyro.module` in both programs."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from one_copy import (
    assert_elbo,
    assert_evidence,
    assert_iwae,
    assert_like_pyro,
    one_copy_at_a_time,
    trained,
)
from pyro.infer import Trace_ELBO
from torch import nn

from pyrovae.objectives import ELBO


class Encoder(nn.Module):
    def __init__(self, pixels, hidden, z_dim):
        super().__init__()
        self.pixels = pixels
        self.hidden = nn.Sequential(nn.Linear(pixels, hidden), nn.Softplus())
        self.loc, self.log_scale = nn.Linear(hidden, z_dim), nn.Linear(hidden, z_dim)

    def forward(self, x):
        h = self.hidden(x.reshape(-1, self.pixels))
        return self.loc(h), self.log_scale(h).exp()


class VAE(nn.Module):
    def __init__(self, pixels=6, hidden=5, z_dim=2):
        super().__init__()
        self.pixels, self.z_dim = pixels, z_dim
        self.encoder = Encoder(pixels, hidden, z_dim)
        self.decoder = nn.Sequential(
            nn.Linear(z_dim, hidden), nn.Softplus(), nn.Linear(hidden, pixels), nn.Sigmoid()
        )

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            loc = x.new_zeros((x.shape[0], self.z_dim))
            scale = x.new_ones((x.shape[0], self.z_dim))
            z = pyro.sample("latent", dist.Normal(loc, scale).to_event(1))
            image = self.decoder(z)
            likelihood = dist.Bernoulli(image, validate_args=False).to_event(1)
            pyro.sample("obs", likelihood, obs=x.reshape(-1, self.pixels))

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, scale = self.encoder(x)
            pyro.sample("latent", dist.Normal(loc, scale).to_event(1))


def images(num_data=4):
    return torch.rand(num_data, 1, 2, 3).round()


def test_bounds_and_gradients_are_those_of_pyro(param_store):
    assert_like_pyro(ELBO(), Trace_ELBO(), VAE(), images())


@pytest.mark.parametrize("epochs", [0, 20])
def test_bounds_and_evidence_are_exact_before_and_after_training(epochs, param_store):
    vae, x = VAE(), images()
    if epochs:
        history = trained(vae, images(64), epochs=epochs)
        assert history["elbo"][-1] > history["elbo"][0]
    reference = one_copy_at_a_time(vae, x)
    assert_evidence(vae, x, reference=reference)
    assert_elbo(vae, x, reference=reference)
    assert_iwae(vae, x, reference=reference)
