"""Stop the program by Ctrl-C or SIGTERM: at once while nothing can be half-written, else at a sound place.

Python raises KeyboardInterrupt at whatever line is running. torch's compiler, and callbacks from compiled
code, catch it there and go on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Raised where a signal ends the program in order.

    Attributes:
        number: the number of the signal, that of Ctrl-C or SIGTERM.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the process at once, with status 130 or 143, imports included.

    This is for a program, not for a library. Training calls `end_in_order` before its first step. A signal
    that the caller ignores, as `nohup` does, stays ignored.
    """
    former = {}
    if threading.current_thread() is threading.main_thread():
        former = {n: signal.getsignal(n) for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN}
    for number in former:
        signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler or signal.SIG_DFL)


def end_in_order() -> None:
    """From here on, let the signals that would end the process at once raise `Stopped` instead."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is _leave:
                signal.signal(number, _stop)


def _leave(number: int, frame: Any) -> None:
    with contextlib.suppress(Exception):  # the signal may have come within a write
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, b"error: interrupted.\n")
    os._exit(128 + number)


def _stop(number: int, frame: Any) -> None:
    raise Stopped(number)


@contextmanager
def interrupts_deferred() -> Iterator[Callable[[], None]]:
    """Within the block, delay Ctrl-C until the yielded function is called, or else until the block ends.

    A second Ctrl-C acts at once. SIGTERM is delayed likewise, if it would raise `Stopped`. Outside of the
    main thread, and while Ctrl-C ends the process at once, nothing changes.

    Yields:
        A function that raises KeyboardInterrupt if Ctrl-C was pressed.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is _leave:
        yield lambda: None
        return
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise Stopped(number)
        asked.append(number)

    def stop_if_asked() -> None:
        if asked:
            raise Stopped(asked[0])

    numbers = [n for n in SIGNALS if n == signal.SIGINT or signal.getsignal(n) is _stop]
    former = {number: signal.signal(number, note) for number in numbers}
    try:
        yield stop_if_asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler or signal.SIG_DFL)
        stop_if_asked()  # even if the block raised an error, which the caller may catch
