"""Scores of a model/guide pair: everything here runs the programs and knows no particular model."""

from pyrovae.evaluation.importance import (
    MarginalLikelihood,
    marginal_likelihood,
    prior_marginal_likelihood,
)

__all__ = ["MarginalLikelihood", "marginal_likelihood", "prior_marginal_likelihood"]
