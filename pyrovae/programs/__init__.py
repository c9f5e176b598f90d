"""Pyro programs: the pair of a model and its guide, its structure, and its runs.

The names load when they are used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
