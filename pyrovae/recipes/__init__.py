"""Recipes: models by name, with their options, and the plans that train them.

Names are imported when they are first used, so that help does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
