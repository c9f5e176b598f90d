"""Mathematical symbols for the names of variables."""

from __future__ import annotations

import math
import re

_LINE = 8  # characters of a name on a line in a circle

_GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|phi|chi|psi|omega"
)


def symbol_of(name: str) -> str | None:
    """Return a variable's name as mathematics, for matplotlib and LaTeX.

    Returns:
        The symbol for a letter or a Greek letter's name, with digits as its index; None for other names.

    Example:
        >>> symbol_of("z1"), symbol_of("mu"), symbol_of("weight")
        ('$z_{1}$', '$\\\\mu$', None)
    """
    match = re.fullmatch(rf"([A-Za-z]|{_GREEK})_?(\d*)", name)
    if match is None:
        return None
    letter = match[1] if len(match[1]) == 1 else "\\" + match[1]
    return f"${letter}_{{{match[2]}}}$" if match[2] else f"${letter}$"


def lines_of(name: str) -> list[str]:
    """Return a variable's name in lines that fit into a circle.

    A line ends at an underscore or a dot. What is longer than a line is hyphenated.

    Example:
        >>> lines_of("loc_unconstrained")
        ['loc_', 'unconst-', 'rained']
    """
    lines = []
    for piece in re.findall(r"[^_.]*[_.]|[^_.]+", name):
        parts = math.ceil(len(piece) / (_LINE + 1))
        size = math.ceil(len(piece) / parts)
        split = [piece[first : first + size] for first in range(0, len(piece), size)]
        lines += [part + "-" for part in split[:-1]] + split[-1:]
    return lines or [name]
