"""Files that the user names by --out: what may be replaced there."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pyrovae.errors import InputError

Overwrite = Annotated[
    bool,
    Parameter(
        help="Replace the file that --out names, even if another program or command has made it.",
        negative="",
        show_default=False,
    ),
]


def check_replaceable(out: Path, marks: Sequence[bytes], overwrite: bool) -> None:
    """Refuse to replace what a command has not made itself, unless the user asks for it.

    Args:
        out: the file to write.
        marks: what each file that the command writes holds.
        overwrite: whether the user has asked for it.

    Raises:
        InputError: there is such a file already, or something that is no file.
    """
    if not out.exists():
        return
    if not out.is_file():
        raise InputError(f"{out} is no file, so no result can be written there: name a file.")
    if not overwrite and out.stat().st_size and not _holds(out, marks):
        raise InputError(
            f"{out} exists, and this command has not made it: name another file, or replace it by "
            "--overwrite."
        )


def _holds(path: Path, marks: Sequence[bytes]) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return all(content.find(mark) >= 0 for mark in marks)
