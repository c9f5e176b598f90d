"""Deaths of processes: at a chosen file operation, and what they leave behind."""

import contextlib
import os
import sys

import numpy as np
import pytest

from pyrovae import recipes
from pyrovae.recipes import Data, Training
from pyrovae.storage import write_atomically

DEAD = 2**22 + 1  # above the largest number of a process on Linux


class Killed(BaseException):
    """Ends a write as the death of its process would."""


def killed(*_):
    raise Killed


def partial_of_a_dead_process(folder, mark=None, name="file"):
    """Leave a file that a process had begun to write when it was killed, and return its path."""
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr("os.getpid", lambda: DEAD)
        patch.setattr("os.replace", killed)
        patch.setattr("pathlib.Path.unlink", lambda path, **how: None)
        write_atomically(folder / name, b"half", mark)
    return next(path for path in folder.glob(".partial-*") if f"-{DEAD}-" in path.name)


# In processes of their own


def vectors_beside(folder):
    """Return a file with 20 vectors in the folder above, and make it if it is not there."""
    file = folder.parent / "x.npy"
    if not file.exists():
        np.save(file, np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32))
    return file


def train_ppca(folder, epochs=3):
    """Train PPCA on 20 vectors that lie beside the folder, or go on with that training."""
    file = vectors_beside(folder)
    how = {"device": "cpu", "progress": False}
    if (folder / "config.json").exists():
        return recipes.Run.open(folder).resume(epochs=epochs, **how)
    training = Training(epochs=epochs, batch_size=10, validation_fraction=0.2)
    options = {"latent_dim": 1}
    return recipes.train(
        "ppca", folder, options=options, training=training, data=Data(data=str(file)), **how
    )


class DeathAt:
    """Ends this process at the n-th file operation in a folder, as a signal would.

    Operations are opening a file to write, making and removing folders and files, renaming, cutting off and
    syncing. They are counted in `count`.
    """

    CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")

    def __init__(self, folder, number):
        self.folder, self.number, self.count = str(folder), number, 0
        sys.addaudithook(self.hear)
        self.fsync, os.fsync = os.fsync, self.sync

    def hear(self, event, args):
        if event == "open":
            changes = bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR))
        else:
            changes = event in self.CHANGES
        if (
            changes
            and isinstance(args[0], str | os.PathLike)
            and os.fspath(args[0]).startswith(self.folder)
        ):
            self.step()

    def sync(self, descriptor):
        self.step()
        self.fsync(descriptor)

    def step(self):
        self.count += 1
        if self.count == self.number:
            os._exit(9)


def train_until(folder, number, counted):
    """Train in this process until the n-th file operation; 0 means to the end, and count them."""
    death = DeathAt(folder, number)
    train_ppca(folder)
    counted.value = death.count


def write_in_rounds(folder, begin, log):
    """Train in a folder, as one of several that begin at one time; log what was refused."""
    begin.wait()
    try:
        train_ppca(folder)
    except Exception as error:  # the test reads what it was
        log.put(("writer", type(error).__name__, str(error)))
    else:
        log.put(("writer", "", ""))


def read_in_rounds(folder, begin, log, until):
    """Open a run again and again while others write it; log what it held, and each error."""
    begin.wait()
    while not until.wait(0.1):
        if not list(folder.glob("checkpoints/epoch-*.pt")):
            continue
        try:
            run = recipes.Run.open(folder)
            loc = run.pair.state_dict()
            log.put(("reader", "", (len(run.history.rows), sorted(loc))))
        except Exception as error:
            log.put(("reader", type(error).__name__, str(error)))
