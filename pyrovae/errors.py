"""The errors and warnings of pyrovae. Every message says what to do next."""

from __future__ import annotations

import difflib
import math
import sys
import warnings
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any


class InputError(ValueError):
    """Raised for data, an option or a program that cannot be used as given."""


class CheckpointError(RuntimeError):
    """Raised for a checkpoint that is damaged, or that belongs to another model or run."""


class NonFiniteError(FloatingPointError):
    """Raised when a loss, a gradient or a parameter becomes infinite or NaN in training."""


class ProcessError(RuntimeError):
    """Raised when another process of a job has ended, or does not answer."""


def check_choice(what: str, name: object, known: Collection[str]) -> None:
    """Refuse an unknown name, and suggest the known name that is closest.

    Args:
        what: the kind of thing that has the name, for the message, such as "posterior".
        name: the name to check.
        known: the known names.

    Raises:
        InputError: `name` is not in `known`.
    """
    if not isinstance(name, str) or name not in known:
        close = difflib.get_close_matches(str(name), list(known), n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise InputError(f"unknown {what} '{name}'; choose from {', '.join(known)}.{hint}")


def check_counts(least: int = 1, /, **counts: Any) -> None:
    """Refuse counts that are not whole numbers of at least 1.

    Args:
        least: the least count that is allowed, 1 by default.
        **counts: the counts, by the names of the arguments that hold them.

    Raises:
        InputError: a count is not a whole number, is below the least, or is more than any machine holds.

    Example:
        >>> check_counts(num_samples=1, batch_size=128)
    """
    for name, count in counts.items():
        whole = isinstance(count, Integral) and not isinstance(count, bool)
        if not whole or count < least:
            raise InputError(f"{name} is {count!r}; it must be a whole number of at least {least}.")
        if count >= 2**40:
            raise InputError(f"{name} is {count!r}; it must be below 2**40, more than any machine holds.")


MOST_DRAWS = 10**13
"""The largest number of draws of one measurement, which take days on any machine."""


def check_can_end(draws: int, what: str, remedy: str) -> None:
    """Refuse a measurement that would not end.

    Args:
        draws: the number of draws that it makes.
        what: the settings that ask for them, for the message.
        remedy: what to do instead.

    Raises:
        InputError: there are more than `MOST_DRAWS`.
    """
    if draws > MOST_DRAWS:
        raise InputError(
            f"{what} ask for {draws:,} draws, and at most {MOST_DRAWS:,} are made, which take days: "
            f"{remedy}."
        )


def check_numbers(above: float = -math.inf, /, **numbers: Any) -> None:
    """Refuse numbers that are not finite and above a limit.

    Args:
        above: the limit, which is not allowed itself. By default any finite number is allowed.
        **numbers: the numbers, by the names of the arguments that hold them.

    Raises:
        InputError: a value is not a number, is not finite, or is not above the limit.

    Example:
        >>> check_numbers(0, clip_norm=1.0)
    """
    for name, number in numbers.items():
        real = isinstance(number, Real)
        if not real or not above < number < math.inf:
            limit = f" above {above:g}" if above > -math.inf else ""
            raise InputError(f"{name} is {number!r}; it must be a finite number{limit}.")


def cause(error: Exception) -> str:
    """Return an error's message on one line, without its final full stop.

    For an OSError this is the system's message. For an error without a message it is the name of its type.
    The table of all shapes that Pyro appends is left out.
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = text.split("\nTrace Shapes")[0]
    return one_line(text).rstrip(".") or type(error).__name__


def one_line(text: str) -> str:
    """Return a text on one line, which a terminal shows as it is: with other control characters escaped.

    Example:
        >>> one_line("no \\x1b[31mred:\\n  odd.png")
        'no \\\\x1b[31mred: odd.png'
    """
    text = " ".join(part.strip() for part in text.splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text).strip()


_BETWEEN = {__name__.partition(".")[0], "torch", "pyro", "sklearn", "contextlib", "functools"}
"""The packages whose lines stand between the user's code and a warning: this one, and what it runs in."""


def warn(message: str) -> None:
    """Issue a warning that points to the line of the user's code that called this package."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
