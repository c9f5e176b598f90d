"""Distributions that Pyro lacks, or that it computes with too little precision."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
