"""Pyro programs: the pair of a model and its guide, what a pair is made of, and how it is run.

The names load when they are used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
