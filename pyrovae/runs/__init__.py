"""Run folders: configuration as plain values, and the files of one training.

Nothing here knows a model or a recipe.
"""

from pyrovae.runs.configuration import Configuration
from pyrovae.runs.folder import RunFolder

__all__ = ["Configuration", "RunFolder"]
