"""Write a plate diagram to a file."""

from __future__ import annotations

import os
from pathlib import Path

from pyrovae.diagrams.diagram import PlateDiagram
from pyrovae.errors import InputError
from pyrovae.storage import write_atomically

FORMATS = (".png", ".svg", ".pdf", ".dot", ".tex")
MARK = "plate diagram, drawn by pyrovae"
"""What each file holds, in a comment or in its metadata."""

_MAKER = {".png": "Software", ".svg": "Creator", ".pdf": "Creator"}
"""The name of the metadata in which a format keeps the maker of a file."""


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
        return f"{diagram.to_dot()}// {MARK}\n".encode()
    if suffix == ".tex":
        return f"{diagram.to_tikz()}% {MARK}\n".encode()
    from pyrovae.canvas import content_of  # matplotlib is slow to import

    about = {"metadata": {_MAKER[suffix]: MARK}}
    return content_of(diagram.draw(), suffix[1:], dpi=200, bbox_inches=None, **about)
