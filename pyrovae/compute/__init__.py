"""Devices, random seeds, precision, compilation, several processes, and Ctrl-C."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
