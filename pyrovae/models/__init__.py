"""Graphical models, one file for each: nothing but Pyro programs."""

from pyrovae.models.autoencoder import Autoencoder
from pyrovae.models.ppca import PPCA
from pyrovae.models.vae import VAE

__all__ = ["PPCA", "VAE", "Autoencoder"]
