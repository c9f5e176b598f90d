"""Priors: modules whose `forward()` returns a distribution over the latent `z`, or over the class `y`.

A prior scores what the posterior drew, and seldom draws itself. So in a prior the cheap direction of a flow
is the one from z to noise. In a posterior it is the one from noise to z.

A prior of your own is a module with `forward()`, which returns a distribution of Pyro with batch shape `()`
and event shape `(M,)`. `standard_normal.py` is a short one to start from.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
