"""Recipes: models by name, with their options, and the plans that train them.

The names load when they are used, so that help costs no import of torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
