"""Write files so that each appears whole or not at all: into a temporary file, which is then renamed."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

PARTIAL = ".partial-"
"""The prefix of the names of temporary files."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, even after a crash or with a full disk.

    Args:
        path: the file; its folder exists. A former file of this name is replaced.
        content: the bytes to write.

    Raises:
        OSError: the file cannot be written. A former file of this name is left as it was.
    """
    temporary = path.parent / f"{PARTIAL}{secrets.token_hex(8)}"
    # Not tempfile.mkstemp: only the owner could ever read its files.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_partial(path: Path) -> bool:
    """Whether the path is a temporary file, which only a crash leaves behind."""
    return path.name.startswith(PARTIAL)


def remove_partials(folder: Path) -> None:
    """Delete the temporary files that crashes left in the folder."""
    for path in filter(is_partial, folder.iterdir()):
        path.unlink(missing_ok=True)
