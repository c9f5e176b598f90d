"""Programs that need the shape of the data, called without data."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae import generation
from pyrovae.errors import InputError
from pyrovae.programs import Pair

SHAPE = (1, 4, 4)


class Flattening(nn.Module):
    """The VAE of Pyro's tutorial: it observes the pixels of an image in a row."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(16, 4), nn.Linear(2, 16)

    def observed(self, x):
        return x.reshape(-1, 16)

    def model(self, x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pixels = dist.Bernoulli(logits=self.decoder(z)).to_event(1)
            pyro.sample("x", pixels, obs=self.observed(x))

    def guide(self, x):
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x.reshape(-1, 16)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Unpacking(Flattening):
    def observed(self, x):
        batch, channels, height, width = x.shape
        return x.reshape(batch, channels * height * width)


class Images(Flattening):
    """It observes images, and says nothing of their shape but by its decoder."""

    def model(self, x):
        batch, channels, height, width = x.shape
        with pyro.plate("data", batch):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z).view(-1, *SHAPE)).to_event(3), obs=x)


class ChannelsLast(Flattening):
    def observed(self, x):
        return x.permute(0, 2, 3, 1).reshape(-1, 16)


@pytest.mark.parametrize("kind", [Flattening, Unpacking, Images])
def test_images_have_the_shape_of_the_data(kind):
    model, x = kind(), torch.rand(5, *SHAPE).round()
    images = generation.reconstruct(model, x)
    loc = model.encoder(x.flatten(1))[:, :2]
    torch.testing.assert_close(images, model.decoder(loc).sigmoid().view(5, *SHAPE).detach())
    model.x_shape = SHAPE
    z = torch.randn(3, 2)
    expected = model.decoder(z).sigmoid().view(3, *SHAPE).detach()
    torch.testing.assert_close(generation.decode(model, z), expected)
    joined = Pair(Flattening.model.__get__(model), model.guide, x_shape=SHAPE)
    torch.testing.assert_close(generation.decode(joined, z), expected)
    assert generation.sample_images(model, 3).shape == (3, *SHAPE)


def test_a_shape_that_is_not_said_is_found_or_asked_for():
    assert generation.sample_images(Flattening(), 3).shape == (3, 16)
    assert generation.sample_images(Images(), 3).shape == (3, *SHAPE)
    with pytest.raises(InputError, match="an attribute x_shape, such as"):
        generation.sample_images(Unpacking(), 3)


def test_pixels_that_are_observed_in_another_order_come_back_in_that_of_the_data():
    model, x = ChannelsLast(), torch.rand(5, 4, 2, 2).round()
    observed = Flattening()
    observed.load_state_dict(model.state_dict())
    images = generation.reconstruct(model, x)
    channels_last = generation.reconstruct(observed, x.flatten(1)).view(5, 2, 2, 4)
    torch.testing.assert_close(images, channels_last.permute(0, 3, 1, 2))
