"""Delay Ctrl-C until a place where it is certain to stop the program.

Python raises KeyboardInterrupt at whatever line is running. torch's compiler, and callbacks from compiled
code, catch it there and go on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_deferred() -> Iterator[Callable[[], None]]:
    """Within the block, delay Ctrl-C until the yielded function is called, or else until the block ends.

    A second Ctrl-C acts at once. Outside of the main thread nothing changes.

    Yields:
        A function that raises KeyboardInterrupt if Ctrl-C was pressed.

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
        stop_if_asked()  # even if the block raised an error, which the caller may catch
