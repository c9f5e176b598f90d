"""Memory: sizes that cannot fit are refused before anything is made, and a failed request is explained."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyrovae.errors import InputError

_SIGNS = re.compile(
    r"out of memory|not enough memory|can't allocate memory|cannot allocate memory|unable to allocate"
    r"|could not create a (primitive|memory)|size calculation overflowed|storage size|invalid buffer size"
    r"|failed to map segment|array is too big|maximum supported dimension|numel: integer multiplication"
    r"|overflow when unpacking|negative dimension|exceeds the maximum",
    re.IGNORECASE,
)
"""The words by which torch, NumPy and the dynamic linker say that a request for memory failed."""


def check_fits(size: int, what: str, remedy: str) -> None:
    """Refuse a size that this machine cannot hold.

    Args:
        size: the number of bytes.
        what: the thing of that size, for the message, such as "x of data.npz".
        remedy: what to do instead.

    Raises:
        InputError: `size` is more than the memory that this process may ever have.
    """
    if size > (most := _most()):
        raise InputError(f"{what} needs {in_words(size)}, and there are {in_words(most)} in all: {remedy}.")


def in_words(size: int) -> str:
    """Return a number of bytes in words, such as "1.5 GB"."""
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size} bytes"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory: of Python, NumPy, torch or an import."""
    told = isinstance(error, RuntimeError | ImportError | OSError) and _SIGNS.search(str(error))
    return isinstance(error, MemoryError) or bool(told)


def explained(error: BaseException, what: str, smaller: str) -> str:
    """Return a line that says that memory does not suffice.

    Args:
        error: the error of a failed request.
        what: the work that failed, such as "training".
        smaller: what takes less memory if it is smaller, such as "batch_size".
    """
    asked = re.search(r"(?:allocate|allocating) ([\d.]+ ?(?:[KMGT]iB|bytes))", str(error))
    size = f": {asked[1]} were asked for" if asked else ""
    return f"the memory does not suffice for {what}{size}. Choose a smaller {smaller}."


@contextmanager
def memory_explained(what: str, smaller: str) -> Iterator[None]:
    """Within the block, turn a failed request for memory into an error of one line; see `explained`.

    Raises:
        InputError: the block ran out of memory.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error) and not isinstance(error, InputError):
            raise InputError(explained(error, what, smaller)) from error
        raise


def _most() -> int:
    """Return the bytes of memory that this process may have: of the machine, a container or a limit."""
    limits = []
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        import resource  # not on Windows

        limits.append(resource.getrlimit(resource.RLIMIT_AS)[0])
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
    return min((limit for limit in limits if limit > 0), default=2**62)
