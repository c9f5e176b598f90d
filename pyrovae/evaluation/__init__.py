"""Scores of a model/guide pair: everything here runs the programs and knows no particular model."""

from pyrovae.evaluation.active_units import ActiveUnits, active_units
from pyrovae.evaluation.best_guide import best_guide
from pyrovae.evaluation.classification import class_posterior, class_probabilities, error_rate
from pyrovae.evaluation.gaps import InferenceGaps, inference_gaps
from pyrovae.evaluation.gradients import GradientVariance, gradient_variance
from pyrovae.evaluation.importance import (
    MarginalLikelihood,
    marginal_likelihood,
    prior_marginal_likelihood,
)
from pyrovae.evaluation.latent_information import KLDecomposition, kl_decomposition

__all__ = [
    "ActiveUnits",
    "GradientVariance",
    "InferenceGaps",
    "KLDecomposition",
    "MarginalLikelihood",
    "active_units",
    "best_guide",
    "class_posterior",
    "class_probabilities",
    "error_rate",
    "gradient_variance",
    "inference_gaps",
    "kl_decomposition",
    "marginal_likelihood",
    "prior_marginal_likelihood",
]
