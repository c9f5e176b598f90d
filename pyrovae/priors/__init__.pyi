from .classes import Classes
from .flows import MaskedAutoregressive, RealNVP, SplineCoupling
from .independent_normal import IndependentNormal
from .mixture import MixtureOfGaussians
from .standard_normal import StandardNormal
from .vamp import VampPrior
from .zuko import ZukoPrior

__all__ = [
    "Classes",
    "IndependentNormal",
    "MaskedAutoregressive",
    "MixtureOfGaussians",
    "RealNVP",
    "SplineCoupling",
    "StandardNormal",
    "VampPrior",
    "ZukoPrior",
]
