"""Figures of a trained pair, each in one call that returns a matplotlib figure.

    >>> from pyrovae import plots
    >>> plots.samples(vae)                                        # doctest: +SKIP
    >>> plots.save(plots.reconstructions(vae, x), "made.png")     # doctest: +SKIP

The figures are made without pyplot: they need no display, and nothing is left open. A notebook shows a
figure that is the value of a cell, once. Colours of text, lines and background follow matplotlib's style.
The names are loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
