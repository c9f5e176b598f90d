"""Variational autoencoders as probabilistic programs.

Names are imported when they are first used. `import pyrovae` alone imports neither torch nor matplotlib nor
scikit-learn.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
