"""Write a figure to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pyrovae.canvas import content_of
from pyrovae.storage import write_atomically


def save(figure: Figure, path: str | Path, source: str = "") -> Path:
    """Write a figure to a file that appears whole or not at all.

    Args:
        figure: the figure.
        path: the file. Its suffix chooses the format: .png, .pdf, .svg and others. Folders that do not
            exist are created.
        source: what the figure is of, such as a checkpoint. It is written into a .png or .svg file.

    Returns:
        The path.

    Raises:
        InputError: matplotlib's setting `text.usetex` is on, and LaTeX is missing or fails.
    """
    path = Path(path)
    suffix = path.suffix[1:].lower() or "png"
    about: dict[str, Any] = {"metadata": {"Source": source}} if source and suffix in ("png", "svg") else {}
    content = content_of(figure, suffix, dpi=150, **about)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return path
