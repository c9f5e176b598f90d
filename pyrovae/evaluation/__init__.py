"""Scores of a model/guide pair: everything here runs the programs and knows no particular model."""

from pyrovae.evaluation.classification import class_posterior, class_probabilities, error_rate
from pyrovae.evaluation.importance import (
    MarginalLikelihood,
    marginal_likelihood,
    prior_marginal_likelihood,
)

__all__ = [
    "MarginalLikelihood",
    "class_posterior",
    "class_probabilities",
    "error_rate",
    "marginal_likelihood",
    "prior_marginal_likelihood",
]
