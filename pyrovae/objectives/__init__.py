"""Objectives: the bound that is optimised, and the estimator of its gradient.

    ELBO                the evidence lower bound, with enumerated classes summed out
    SupervisedELBO      the ELBO with a classification term for labelled data
    IWAE                the importance-weighted bound, with its plain or doubly reparameterised gradient
    ScoreFunctionELBO   the ELBO with gradients that need no reparameterisation
    FreeBits            the ELBO with a floor under the divergence

Each runs any model/guide pair and is an objective for `fit`, for Pyro's `SVI` and for
`evaluation.gradient_variance`. Names are imported when they are used.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from pyrovae.objectives.elbo import ELBO as ELBO
    from pyrovae.objectives.free_bits import FreeBits as FreeBits
    from pyrovae.objectives.importance import IWAE as IWAE
    from pyrovae.objectives.objective import Bound as Bound
    from pyrovae.objectives.objective import Objective as Objective
    from pyrovae.objectives.objective import PyroObjective as PyroObjective
    from pyrovae.objectives.objective import as_objective as as_objective
    from pyrovae.objectives.objective import description as description
    from pyrovae.objectives.score_function import ScoreFunctionELBO as ScoreFunctionELBO
    from pyrovae.objectives.supervised import SupervisedELBO as SupervisedELBO
    from pyrovae.objectives.weights import reweight as reweight

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "elbo": ["ELBO"],
        "free_bits": ["FreeBits"],
        "importance": ["IWAE"],
        "objective": ["Bound", "Objective", "PyroObjective", "as_objective", "description"],
        "score_function": ["ScoreFunctionELBO"],
        "supervised": ["SupervisedELBO"],
        "weights": ["reweight"],
    },
)
