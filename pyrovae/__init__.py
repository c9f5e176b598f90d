"""Variational autoencoders as probabilistic programs."""

from pyrovae._version import __version__
from pyrovae.plates import plate_diagram
from pyrovae.training import fit

__all__ = ["__version__", "fit", "plate_diagram"]
