from .diagonal_normal import DiagonalNormal
from .flow import FlowPosterior
from .free_normal import FreeNormal
from .full_covariance_normal import FullCovarianceNormal
from .linear_normal import LinearNormal
from .scales import positive
from .zuko import ZukoPosterior

__all__ = [
    "DiagonalNormal",
    "FlowPosterior",
    "FreeNormal",
    "FullCovarianceNormal",
    "LinearNormal",
    "ZukoPosterior",
    "positive",
]
