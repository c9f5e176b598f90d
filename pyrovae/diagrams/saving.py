"""Write a plate diagram to a file."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrovae.diagrams.diagram import PlateDiagram
from pyrovae.errors import InputError, cause
from pyrovae.storage import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf", ".dot", ".tex")


def save(diagram: PlateDiagram, path: str | os.PathLike[str]) -> None:
    """Write the diagram in the format of the file's suffix; see `PlateDiagram.save`."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"cannot write a diagram as {suffix!r}: use one of {', '.join(FORMATS)}.")
    if not path.parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} does not exist: create it first.")
    write_atomically(path, _content(diagram, suffix))


def _content(diagram: PlateDiagram, suffix: str) -> bytes:
    if suffix == ".dot":
        return diagram.to_dot().encode()
    if suffix == ".tex":
        return diagram.to_tikz().encode()
    return rendered(diagram.draw(), suffix[1:], dpi=200)


def rendered(figure: Figure, kind: str, **how: Any) -> bytes:
    """Return a figure as the content of a file.

    Args:
        figure: the figure.
        kind: the format, such as "png".
        how: further arguments of `savefig`.

    Raises:
        InputError: matplotlib's setting `text.usetex` is on, and LaTeX is missing or fails.
    """
    import matplotlib

    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, format=kind, **how)
    except (RuntimeError, OSError) as error:
        if not matplotlib.rcParams["text.usetex"]:
            raise
        raise InputError(
            "a figure cannot be drawn with LaTeX, which matplotlib's setting text.usetex asks for: "
            f"{cause(error)}. Install LaTeX, or set matplotlib.rcParams['text.usetex'] = False (in a "
            "matplotlibrc: text.usetex: False) before the figure is made."
        ) from None
    return buffer.getvalue()
