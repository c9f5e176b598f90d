"""Several threads: one at a time runs programs, and long work lets the others have their turns.

Pyro's handlers and parameters, torch's random streams and the modes of modules belong to all threads of a
process. So one lock guards whatever runs programs. Where another thread waits, training gives the lock up
between two steps, and an evaluation between two chunks. Before it goes on, all that it had changed for the
whole process is as it left it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from pyro.poutine.runtime import _PYRO_STACK


class _Lock:
    """A re-entrant lock that the threads get in the order in which they asked."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.waiting: deque[object] = deque()
        self.owner: int | None = None
        self.depth = 0

    def acquire(self, depth: int = 1) -> None:
        with self.condition:
            if self.owner == threading.get_ident():
                self.depth += depth
                return
            ticket = object()
            self.waiting.append(ticket)
            try:
                while self.owner is not None or self.waiting[0] is not ticket:
                    self.condition.wait()
            except BaseException:  # Ctrl-C in the main thread
                self.waiting.remove(ticket)
                self.condition.notify_all()
                raise
            self.waiting.popleft()
            self.owner, self.depth = threading.get_ident(), depth

    def release(self, depth: int = 1) -> None:
        with self.condition:
            self.depth -= depth
            if self.depth == 0:
                self.owner = None
                self.condition.notify_all()


class State(Protocol):
    """Something that a thread has changed for the whole process."""

    def leave(self) -> None:
        """Put it back, since another thread has its turn."""

    def come_back(self) -> None:
        """Change it again."""


class _Kept:
    def __init__(self, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
        self.read, self.write = read, write
        self.outside = read()

    def leave(self) -> None:
        self.inside = self.read()
        self.write(self.outside)

    def come_back(self) -> None:
        self.outside = self.read()
        self.write(self.inside)


class _Reentered:
    def __init__(self, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self.make = make
        self.come_back()

    def leave(self) -> None:
        self.context.__exit__(None, None, None)

    def come_back(self) -> None:
        self.context = self.make()
        self.context.__enter__()


_lock = _Lock()
_of_thread = threading.local()


def _states() -> list[State]:
    if not hasattr(_of_thread, "states"):
        _of_thread.states = []
    states: list[State] = _of_thread.states
    return states


@contextmanager
def alone() -> Iterator[None]:
    """Run the block while no other thread runs one. A thread may enter again.

    At the end, also after an error, Pyro's stack of handlers is as it was at the beginning.
    """
    _lock.acquire()
    handlers = _PYRO_STACK[:]
    try:
        yield
    finally:
        if handlers != _PYRO_STACK:
            _PYRO_STACK[:] = handlers
        _lock.release()


@contextmanager
def kept(read: Callable[[], Any], write: Callable[[Any], None]) -> Iterator[None]:
    """Put something back that belongs to the whole process: at the end, and while another thread runs.

    Args:
        read: a function that returns its state.
        write: a function that sets its state.
    """
    with alone(), registered(state := _Kept(read, write)):
        try:
            yield
        finally:
            write(state.outside)


@contextmanager
def reentered(make: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Run the block in a context that changes something for the whole process.

    The context is left while another thread runs, and a new one is entered afterwards.

    Args:
        make: a function that makes the context.
    """
    with alone(), registered(state := _Reentered(make)):
        try:
            yield
        finally:
            state.leave()


@contextmanager
def registered(state: State) -> Iterator[None]:
    """Within the block, let another thread's turn begin with `leave`, and end with `come_back`."""
    states = _states()
    states.append(state)
    try:
        yield
    finally:
        states.remove(state)


def _is_mine() -> bool:
    return _lock.owner == threading.get_ident()


def give_way() -> None:
    """Let the threads that wait have their turns. Then go on with all as it was."""
    if not _lock.waiting or not _is_mine():
        return
    states, depth, handlers = _states(), _lock.depth, _PYRO_STACK[:]
    for state in reversed(states):
        state.leave()
    _PYRO_STACK.clear()
    _lock.release(depth)
    interrupted = None
    while not _is_mine():
        try:
            _lock.acquire(depth)
        except KeyboardInterrupt as error:  # nothing may be put back while another thread runs
            interrupted = error
    _PYRO_STACK[:] = handlers
    for state in states:
        state.come_back()
    if interrupted is not None:
        raise interrupted
