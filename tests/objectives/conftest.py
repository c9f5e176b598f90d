"""The VAE and the data of the tests of objectives, in 64-bit."""

import pytest


@pytest.fixture
def vae(make_vae):
    return make_vae().double()


@pytest.fixture
def x(binary_images):
    return binary_images.double()[:6]
