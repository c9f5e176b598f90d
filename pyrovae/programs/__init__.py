"""Pyro programs: the pair of a model and its guide, what a pair is made of, and how it is run."""

from pyrovae.programs.pair import ModelAndGuide, Pair, Program

__all__ = ["ModelAndGuide", "Pair", "Program"]
