"""One writer for each run folder.

The writer holds a lock of the operating system, which ends with its process. Where the file system has no
locks, it holds a lease: a file that it renews every 10 seconds. A lease that has not been renewed for 60
seconds is void, and so is at once that of a process of this machine that has died. Both files say which
process on which machine has the folder. Readers need neither.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from pyrovae.errors import CheckpointError, InputError

LOCK, LEASE = ".writer.lock", ".writer.lease"
"""The names of the files in the folder that is written."""

RENEWED, VOID = 10.0, 60.0
"""The seconds between two renewals of a lease, and those after which it is void."""

_TRIES = 10
_PATIENCE = 0.5  # seconds, in which another process may be about to give the lock up
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


@dataclass(frozen=True)
class _Held:
    lock: BaseFileLock
    pid: int
    thread: int

    @property
    def mine(self) -> bool:
        return (self.pid, self.thread) == (os.getpid(), threading.get_ident())


_held: dict[Path, _Held] = {}


@contextmanager
def one_writer(folder: str | Path) -> Iterator[None]:
    """Within the block, be the only one that writes to a folder and to the folders in it.

    The folder is made if it does not exist. If the block then fails and the folder is still empty, it is
    removed again, with the folders above it that were made. A thread that has a folder already may enter
    blocks for it, and for folders in it.

    Args:
        folder: the folder.

    Raises:
        InputError: another process or thread writes there. The message names process and machine.
        OSError: the folder cannot be made or written.
    """
    folder = Path(folder)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with _lock_on(folder):
            yield
    except BaseException:
        for path in missing:
            with suppress(OSError):  # another process has written there
                path.rmdir()
        raise


@contextmanager
def _lock_on(folder: Path) -> Iterator[None]:
    resolved = folder.resolve()
    if _mine(resolved) is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield
        return
    lock = _acquired(folder)
    _held[resolved] = _Held(lock, os.getpid(), threading.get_ident())
    try:
        yield
    finally:
        del _held[resolved]
        if not isinstance(lock, SoftFileLease):  # while it is held: whoever waits for it looks again
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def check_still_writer(folder: Path) -> None:
    """Check that the lease on a folder has not been taken over, as after a long sleep of the machine.

    Raises:
        CheckpointError: another process may have taken it over.
    """
    held = _mine(folder.resolve())
    lost = held.lock.compromise if held and isinstance(held.lock, SoftFileLease) else None
    if lost is not None:
        raise CheckpointError(
            f"the lease on {folder} was lost ({lost.reason}), so another process may write there: nothing "
            "more is written. Resume the run once no other process trains in the folder."
        )


def is_lock(path: Path) -> bool:
    """Whether the path is the file of a lock or of a lease. A process that was killed leaves it behind."""
    return path.name in (LOCK, LEASE)


def _mine(folder: Path) -> _Held | None:
    return next((h for held, h in _held.items() if h.mine and folder.is_relative_to(held)), None)


def _acquired(folder: Path) -> BaseFileLock:
    for _ in range(_TRIES):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return _locked(folder)
        except FileNotFoundError:  # another process that was refused has just removed the folder
            continue
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def _locked(folder: Path) -> BaseFileLock:
    lock = FileLock(folder / LOCK, timeout=_PATIENCE, fallback_to_soft=False, thread_local=False)
    try:
        lock.acquire(poll_interval=_PATIENCE / 10)
    except Timeout:
        raise InputError(_taken(folder, folder / LOCK)) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise OSError(error.errno, error.strerror, str(folder)) from error
        return _leased(folder)
    with suppress(OSError):  # the lock holds without it
        Path(lock.lock_file).write_text(f"pid={os.getpid()}\nhost={socket.gethostname()}\n")
    return lock


def _leased(folder: Path) -> BaseFileLock:
    with suppress(OSError):
        (folder / LOCK).unlink()
    path = folder / LEASE
    begun = _renewal(path)
    lease = SoftFileLease(path, lease_duration=VOID, heartbeat_interval=RENEWED, thread_local=False)
    try:
        # A void lease is seen only by waiting; one that is renewed meanwhile is not void.
        lease.acquire(
            timeout=VOID * 1.2,
            poll_interval=min(0.2, RENEWED / 5),
            cancel_check=lambda: begun is not None and _renewal(path) not in (None, begun),
        )
    except Timeout:
        raise InputError(_taken(folder, path)) from None
    return lease


def _renewal(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _taken(folder: Path, path: Path) -> str:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        text = ""
    pid, host = re.search(r"^pid=(\d+)$", text, re.M), re.search(r"^host=(\S+)$", text, re.M)
    who = f"process {pid[1]} on {host[1]}" if pid and host else "another process"
    return f"{folder} is being written by {who}: wait until it has ended, or name another folder."
