"""Likelihoods: modules whose `forward(z)` returns a distribution over the data `x`.

A likelihood owns its network, which maps z to the parameters of the pixels. In M2 it is called as
`likelihood(z, y)`. The event of the distribution is the whole image, so `log_prob` has one value for each
datum.

A likelihood of your own is a subclass of `Likelihood`. Built as `Mine(network)`, it can be chosen by name
on the command line. `bernoulli.py` is a short one to start from.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
