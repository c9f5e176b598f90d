"""Scores of a pair: evidence, inference gaps, latent information, classification, gradient noise.

Everything here runs the programs and knows no particular model. Names are loaded when they are used.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from pyrovae.evaluation.classification import class_posterior, class_probabilities, error_rate
    from pyrovae.evaluation.evidence import (
        MarginalLikelihood,
        marginal_likelihood,
        prior_marginal_likelihood,
    )
    from pyrovae.evaluation.gaps import InferenceGaps, inference_gaps
    from pyrovae.evaluation.gradients import GradientVariance, gradient_variance
    from pyrovae.evaluation.guide_search import best_guide
    from pyrovae.evaluation.kl import KLDecomposition, kl_decomposition
    from pyrovae.evaluation.units import ActiveUnits, active_units

# No file bears the name of a function: the import of one would hide the function.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "classification": ["class_posterior", "class_probabilities", "error_rate"],
        "evidence": ["MarginalLikelihood", "marginal_likelihood", "prior_marginal_likelihood"],
        "gaps": ["InferenceGaps", "inference_gaps"],
        "gradients": ["GradientVariance", "gradient_variance"],
        "guide_search": ["best_guide"],
        "kl": ["KLDecomposition", "kl_decomposition"],
        "units": ["ActiveUnits", "active_units"],
    },
)

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
