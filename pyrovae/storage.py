"""Atomic writes of files. A file is written under a temporary name and then renamed.

A temporary name says for which file and by which process it is. So what a dead process left behind is
removed by the next process that writes the same file, and the file of a living one never is.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
from pathlib import Path

from pyrovae.errors import InputError, cause

PARTIAL = ".partial-"
"""The prefix of the names of temporary files."""

_NAME = re.compile(rf"{re.escape(PARTIAL)}([0-9a-f]{{8}})-([0-9a-f]{{8}})-([0-9]+)-[0-9a-f]{{8}}")


def write_atomically(path: Path, content: bytes, mark: str | None = None) -> None:
    """Write a file that appears whole or not at all, even after a crash or with a full disk.

    Args:
        path: the file, in a folder that exists. An existing file is replaced.
        content: the bytes to write.
        mark: 8 hexadecimal digits in the temporary name, by which leftovers are recognised. By default they
            follow from the file's name.

    Raises:
        OSError: the file cannot be written. An existing file stays as it was.
    """
    mark = mark or _digest(path.name)
    temporary = path.parent / f"{PARTIAL}{mark}-{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        remove_partials(path.parent, mark)
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
    except OSError as error:  # of the file that was meant, not of the temporary one
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def expanded(path: str | Path) -> Path:
    """Return a path in which `~` is the user's home folder.

    Raises:
        InputError: the path begins with `~`, and there is no such user, or no home folder; or it is no
            path.
    """
    try:
        if b"\0" in os.fsencode(path):
            raise ValueError("no name of a file holds a zero byte")
        return Path(path).expanduser()
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be found: {cause(error)}. Give the whole path.") from None


def is_partial(path: Path) -> bool:
    """Whether the path is a temporary file. Only a crash leaves one behind."""
    return _NAME.fullmatch(path.name) is not None


def remove_partials(folder: Path, mark: str) -> None:
    """Delete the temporary files with this mark that dead processes of this machine left in the folder."""
    for path in folder.iterdir():
        found = _NAME.fullmatch(path.name)
        if found and found[1] == mark and found[2] == _host() and not _is_alive(int(found[3])):
            path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # there os.kill would end the process
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _host() -> str:
    """Return a digest of the machine and, in a container, of its own numbers of processes."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return _digest(f"{socket.gethostname()} {namespace}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def check_folder(path: Path) -> None:
    """Refuse a path at which no folder can be, since it or a part of it is a file.

    Raises:
        InputError: it is such a path. The message names the file.
    """
    place = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not place.is_dir():
        raise InputError(f"{place} is a file, and a folder is needed: name another path.")
