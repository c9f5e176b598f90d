from .autoencoder import Autoencoder
from .bayesian_network import BayesianNetwork
from .cpcvae import CPCVAE
from .cvae import CVAE
from .hierarchical import HierarchicalVAE
from .m1m2 import M1M2
from .m2 import M2
from .pcvae import PCVAE
from .ppca import PPCA
from .vae import VAE

__all__ = [
    "CPCVAE",
    "CVAE",
    "M1M2",
    "M2",
    "PCVAE",
    "PPCA",
    "VAE",
    "Autoencoder",
    "BayesianNetwork",
    "HierarchicalVAE",
]
