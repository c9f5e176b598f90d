"""Progress bars, and text streams that take what is written even if it cannot arrive."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


_SECONDS = 30.0
"""The seconds between two lines of progress in a log."""


def progress_bar(shown: bool, total: int, unit: str, initial: int = 0) -> tqdm:
    """Make a progress bar on standard error, which may be closed or full.

    In a file or a pipe it writes a line from time to time instead, without carriage returns.

    Args:
        shown: whether to show the bar.
        total: the number of units of all the work.
        unit: the name of a unit, such as "step".
        initial: the number of units that are done already.
    """
    from tqdm.auto import tqdm  # a widget in a notebook

    shown = shown and sys.stderr is not None
    stream: Any = Unbreakable(sys.stderr) if shown else None
    how: dict[str, Any] = {}
    if shown and not sys.stderr.isatty() and "ipykernel" not in sys.modules:  # a notebook shows bars
        stream, how = _Lines(stream), {"mininterval": _SECONDS, "ascii": True}
    return tqdm(total=total, initial=initial, unit=unit, disable=not shown, file=stream, **how)


class _Lines:
    """A stream for tqdm that writes a line for each state of the bar, and none over another."""

    def __init__(self, stream: Unbreakable) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        if line := text.strip("\r\n "):
            self.stream.write(f"{line}\n")
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def say(shown: bool, text: str) -> None:
    """Write a line to standard error, where progress bars are.

    Args:
        shown: whether to write it.
        text: the line.
    """
    if shown and sys.stderr is not None:
        print(text, file=Unbreakable(sys.stderr), flush=True)


class Unbreakable:
    """A text stream that takes what is written, even if that can no longer arrive.

    Args:
        stream: the stream to write to.

    Attributes:
        failure: the first error of the stream, or None.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text."""
        with self._forgiven():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        with self._forgiven():
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error
            with contextlib.suppress(OSError, ValueError):  # what is still buffered goes nowhere
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)
