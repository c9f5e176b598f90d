from .continuous_bernoulli import ContinuousBernoulli
from .diagonal_normal_mixture import DiagonalNormalMixture
from .free_parameters import HasFreeParameters
from .multivariate_normal import MultivariateNormal
from .observed import filled, masked
from .pushforward import AmortisedFlow, Pushforward
from .zuko import FromZuko, ZukoFlow

__all__ = [
    "AmortisedFlow",
    "ContinuousBernoulli",
    "DiagonalNormalMixture",
    "FromZuko",
    "HasFreeParameters",
    "MultivariateNormal",
    "Pushforward",
    "ZukoFlow",
    "filled",
    "masked",
]
