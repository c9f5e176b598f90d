"""Ctrl-C, at places where it is sure to arrive.

Python raises KeyboardInterrupt wherever it happens to be, and torch's compiler, and callbacks from its
compiled code, swallow it there.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_deferred() -> Iterator[Callable[[], None]]:
    """Within, Ctrl-C waits until the function that this yields is called, or for the block's end.

    A second one does not wait. In other threads than the main one nothing is changed.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    asked: list[Any] = []

    def note(*args: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(args)

    def stop_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    former = signal.signal(signal.SIGINT, note)
    try:
        yield stop_if_asked
    finally:
        signal.signal(signal.SIGINT, former or signal.SIG_DFL)
        stop_if_asked()  # also in place of an error, which the caller may have meant to survive
