"""Plate diagrams of models and guides: read off the running programs, drawn, and written as text.

    >>> from pyrovae.diagrams import plate_diagram
    >>> plate_diagram(vae, x).save("vae.pdf")  # doctest: +SKIP

The names are loaded when they are first used; matplotlib is imported when a diagram is drawn.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
