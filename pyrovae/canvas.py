"""What all drawings share: a figure that notebooks show, and colours that follow matplotlib's style."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from pyrovae.errors import InputError, cause


class Canvas(Figure):
    """A figure that is made without pyplot, and that a notebook shows once, as the value of a cell.

    It needs no display, and nothing is left open. Call `savefig`, or `pyrovae.plots.save`, to write it to a
    file.
    """

    def _repr_png_(self) -> bytes:
        return content_of(self, "png")


def content_of(figure: Figure, suffix: str, **settings: Any) -> bytes:
    """Return the content of a file with the figure.

    Args:
        figure: the figure.
        suffix: the format: png, svg, pdf and others.
        settings: settings of `savefig`, such as `dpi`.

    Raises:
        InputError: matplotlib's setting `text.usetex` is on, and LaTeX is missing or fails.
    """
    buffer = io.BytesIO()
    defaults: dict[str, Any] = {"dpi": 100, "bbox_inches": "tight"}
    try:
        figure.savefig(buffer, format=suffix, **(defaults | settings))
    except (RuntimeError, OSError) as error:
        if not matplotlib.rcParams["text.usetex"]:
            raise
        raise InputError(
            "a figure cannot be drawn with LaTeX, which matplotlib's setting text.usetex asks for: "
            f"{cause(error)}. Install LaTeX, or set matplotlib.rcParams['text.usetex'] = False (in a "
            "matplotlibrc: text.usetex: False) before the figure is made."
        ) from None
    return buffer.getvalue()


def ink() -> str:
    """Return the colour of text and lines in the current style."""
    return to_hex(matplotlib.rcParams["text.color"])


def paper() -> str:
    """Return the colour behind axes in the current style."""
    return to_hex(matplotlib.rcParams["axes.facecolor"])


def sheet() -> str:
    """Return the colour behind a whole figure in the current style."""
    return to_hex(matplotlib.rcParams["figure.facecolor"])


def shade(share: float) -> str:
    """Return a mixture of ink and sheet.

    Args:
        share: the share of ink, between 0 and 1.
    """
    (r, g, b), (r0, g0, b0) = to_rgb(ink()), to_rgb(sheet())
    rest = 1 - share
    return to_hex((share * r + rest * r0, share * g + rest * g0, share * b + rest * b0))
