"""Names that moved to `pyrovae.programs.dependence` and `pyrovae.programs.modes`."""

from __future__ import annotations

from pyrovae.programs.dependence import (
    Argument,
    positional_names,
    run_recorded,
    track,
)
from pyrovae.programs.dependence import RecordedSite as Site
from pyrovae.programs.modes import nothing_moves

__all__ = ["Argument", "Site", "nothing_moves", "positional_names", "run_recorded", "track"]
