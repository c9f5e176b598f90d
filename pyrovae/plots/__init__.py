"""Figures of generated images, of training, of latent space and of predictions.

    >>> from pyrovae import plots
    >>> plots.save(plots.samples(images), "samples.png")  # doctest: +SKIP

Each function takes tensors or a history and returns a matplotlib figure. The figures are made without
pyplot: they need no display, and nothing is left open. The names are loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
