"""Objectives: the bound that is optimised, and the estimator of its gradient.

    ELBO                the evidence lower bound, with enumerated classes summed out
    SupervisedELBO      the ELBO with a classification term for labelled data
    IWAE                the importance-weighted bound, with its plain or doubly reparameterised gradient
    ScoreFunctionELBO   the ELBO with gradients that need no reparameterisation
    FreeBits            the ELBO with a floor under the divergence

Each runs any model/guide pair and is an objective for `fit`, for Pyro's `SVI` and for
`evaluation.gradient_variance`. Names are imported when they are used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
