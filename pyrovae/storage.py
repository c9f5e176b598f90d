"""Atomic writes of files. A file is written under a temporary name and then renamed."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pyrovae.errors import InputError, cause

PARTIAL = ".partial-"
"""The prefix of the names of temporary files."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, even after a crash or with a full disk.

    Args:
        path: the file, in a folder that exists. An existing file is replaced.
        content: the bytes to write.

    Raises:
        OSError: the file cannot be written. An existing file stays as it was.
    """
    temporary = path.parent / f"{PARTIAL}{secrets.token_hex(8)}"
    # Not tempfile.mkstemp, since only the owner can read its files.
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


def expanded(path: str | Path) -> Path:
    """Return a path in which `~` is the user's home folder.

    Raises:
        InputError: the path begins with `~`, and there is no such user, or no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path} cannot be found: {cause(error)}. Give the whole path.") from None


def is_partial(path: Path) -> bool:
    """Whether the path is a temporary file. Only a crash leaves one behind."""
    return path.name.startswith(PARTIAL)


def remove_partials(folder: Path) -> None:
    """Delete the temporary files that crashes left in the folder."""
    for path in filter(is_partial, folder.iterdir()):
        path.unlink(missing_ok=True)
