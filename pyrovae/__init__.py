"""Variational autoencoders as probabilistic programs.

The names load when they are used: `import pyrovae` imports no torch, and nothing imports matplotlib or
scikit-learn before it is needed.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
