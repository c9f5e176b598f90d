"""Objectives: the bound that is optimised, and the estimator of its gradient.

    ELBO                the evidence lower bound, with enumerated classes summed out
    SupervisedELBO      the ELBO with a classification term for labelled data
    IWAE                the importance-weighted bound, with its plain or doubly reparameterised gradient
    ScoreFunctionELBO   the ELBO with gradients that need no reparameterisation
    FreeBits            the ELBO with a floor under the divergence

Each takes any model/guide pair. `fit`, Pyro's `SVI` and `evaluation.gradient_variance` take it as their
objective. Names are imported when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
