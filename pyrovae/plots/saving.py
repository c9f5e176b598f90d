"""Write a figure to a file."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from pyrovae.storage import write_atomically


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure to a file that appears whole or not at all.

    Args:
        figure: the figure.
        path: the file. Its suffix chooses the format: .png, .pdf, .svg and others. Folders that do not
            exist are created.

    Returns:
        The path.
    """
    path = Path(path)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:] or "png", dpi=150, bbox_inches="tight")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
    return path
