"""Files that appear whole or not at all: written aside, then renamed."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

PARTIAL = ".partial-"
"""The first characters of the name of a file that is still being written."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all, also through a crash or a full disk."""
    temporary = path.parent / f"{PARTIAL}{secrets.token_hex(8)}"
    # Not tempfile's mkstemp, whose files nobody but their owner may ever read.
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
    """Whether a crash left this file half-written."""
    return path.name.startswith(PARTIAL)


def remove_partials(folder: Path) -> None:
    for path in filter(is_partial, folder.iterdir()):
        path.unlink(missing_ok=True)
