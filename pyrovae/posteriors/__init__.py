"""Posteriors: modules whose `forward(x)` returns a distribution over the latent `z`.

A posterior owns its network, which maps x to features, and the affine heads that map features to the
parameters of the distribution.

A posterior of your own is a module with `forward(x)`, which returns a distribution of Pyro with event shape
`(M,)`. Built as `Mine(network, latent_dim)`, it can be chosen by name on the command line.
`diagonal_normal.py` is a short one to start from.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
