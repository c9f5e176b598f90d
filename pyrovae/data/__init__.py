"""Data sets by name, a user's own files, splits and transforms of pixels.

    >>> from pyrovae import data
    >>> images = data.load("digits")
    >>> x = data.binarise_static(images.x_train)

The names are loaded when they are first used, so that the command line can list `DATASETS` without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
