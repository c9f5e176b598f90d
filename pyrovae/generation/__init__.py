"""Samples, images and codes of a trained pair: `samples(pair, n)` draws n data from the model.

Everything here runs the programs and knows no particular model. Data may lie on any device, and what is
computed of them comes back to there. What is drawn without data is on the CPU. Names are loaded when they
are used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
