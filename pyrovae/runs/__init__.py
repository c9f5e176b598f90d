"""Run folders: configuration as plain values, and the files of one training.

This package imports no model and no recipe.
"""

from pyrovae.runs.configuration import Configuration
from pyrovae.runs.folder import RunFolder

__all__ = ["Configuration", "RunFolder"]
