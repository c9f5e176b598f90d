"""Standard streams that may be closed, or full, without an end to the run."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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


@contextmanager
def usable_streams() -> Iterator[Unbreakable]:
    """Within the block, let standard output and errors take all that is written. Yield standard output.

    A closed descriptor is opened, to nowhere: else the next file that is opened would get its number, and
    the messages of libraries.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    with contextlib.ExitStack() as stack:
        former = sys.stdout, sys.stderr
        streams = [stream or stack.enter_context(open(os.devnull, "w")) for stream in former]
        for stream in streams:
            if hasattr(stream, "reconfigure"):  # names of files may hold bytes that are no text
                stream.reconfigure(errors="backslashreplace")
        out, err = map(Unbreakable, streams)
        sys.stdout, sys.stderr = out, err
        try:
            yield out
        finally:
            out.flush()
            sys.stdout, sys.stderr = former
