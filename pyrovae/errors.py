"""What pyrovae raises when something outside it is wrong. Every message says what to do next."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Collection
from numbers import Integral
from pathlib import Path


class InputError(ValueError):
    """Data, an option or a program that cannot be used as given."""


class CheckpointError(RuntimeError):
    """A checkpoint that is damaged, or that belongs to another model or run."""


class NonFiniteError(FloatingPointError):
    """Training met a loss, a gradient or a parameter that is not finite."""


def check_choice(what: str, name: object, known: Collection[str]) -> None:
    """Refuse a name that is not known, and suggest one that is."""
    if name not in known:
        close = difflib.get_close_matches(str(name), list(known), n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise InputError(f"unknown {what} '{name}'; there are {', '.join(known)}.{hint}")


def check_counts(**counts: object) -> None:
    """Refuse, by name, what is no whole number of at least 1."""
    for name, count in counts.items():
        if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
            raise InputError(f"{name} is {count!r}; it must be a whole number of at least 1.")


def warn(message: str) -> None:
    """Warn at the line that called this package, wherever within the package the cause was found."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back and Path(frame.f_code.co_filename).is_relative_to(Path(__file__).parent):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
