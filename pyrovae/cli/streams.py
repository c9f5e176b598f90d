"""Standard streams that may be closed, or full, without an end to the run."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pyrovae.compute.progress import Unbreakable


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
