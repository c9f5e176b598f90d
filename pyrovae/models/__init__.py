"""Graphical models, one file for each: nothing but Pyro programs."""

from pyrovae.models.autoencoder import Autoencoder
from pyrovae.models.cpcvae import CPCVAE
from pyrovae.models.hierarchical import HierarchicalVAE
from pyrovae.models.m1m2 import M1M2
from pyrovae.models.m2 import M2
from pyrovae.models.pcvae import PCVAE
from pyrovae.models.ppca import PPCA
from pyrovae.models.vae import VAE

__all__ = ["CPCVAE", "M1M2", "M2", "PCVAE", "PPCA", "VAE", "Autoencoder", "HierarchicalVAE"]
