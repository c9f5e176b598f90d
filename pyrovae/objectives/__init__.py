"""Objectives: which bound is optimised, and by which estimator of its gradient."""

from pyrovae.objectives.elbo import ELBO, Objective, SupervisedELBO
from pyrovae.objectives.estimators import IWAE, FreeBits, ScoreFunctionELBO

__all__ = [
    "ELBO",
    "IWAE",
    "FreeBits",
    "Objective",
    "ScoreFunctionELBO",
    "SupervisedELBO",
    "description",
    "reweight",
]
