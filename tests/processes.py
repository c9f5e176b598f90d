"""The command line in processes of its own, which can fail, and be killed, as a user's can.

They are forked from a server that has imported the library once, since the import takes seconds.
"""

import contextlib
import multiprocessing
import os
import socket
import sys
from pathlib import Path
from typing import NamedTuple

import torch

import pyrovae.cli

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [
        "pyrovae.cli.app",
        "pyrovae.evaluation.importance",
        "pyrovae.plots.pages",
        "pyrovae.recipes.measuring",
        "torch._dynamo",
        "matplotlib.backends.backend_agg",
        "sklearn.datasets",
        "sklearn.model_selection",
        "arviz",
    ]
)


class Done(NamedTuple):
    status: int
    out: str
    err: str


def start(words, log: Path):
    """Begin `pyrovae words...`, its output going to `log`.out and `log`.err."""
    process = context.Process(target=_main, args=([str(word) for word in words], str(log), os.getcwd()))
    process.start()
    return process


def finish(words, log: Path) -> Done:
    """Run `pyrovae words...` to its end."""
    process = start(words, log)
    process.join()
    return done(process, log)


def done(process, log: Path) -> Done:
    return Done(process.exitcode, Path(f"{log}.out").read_text(), Path(f"{log}.err").read_text())


def together(target, folder: Path, *args, **variables) -> list[Done]:
    """Run a function in two processes that work together, as if torchrun had started them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = []
    for rank in ("0", "1"):
        own = shared | variables | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        log = folder / f"log-{rank}"
        process = context.Process(target=_ranked, args=(target, own, str(log), os.getcwd(), *args))
        process.start()
        running.append((process, log))
    for process, _ in running:
        process.join(300)
    return [done(process, log) for process, log in running]


def _ranked(target, variables, log, folder, *args):
    os.environ.update(variables)
    _begin(log, folder)
    target(*args)


def _main(words, log, folder):
    _begin(log, folder)
    sys.argv = ["pyrovae", *words]
    with contextlib.ExitStack() as stack:
        stack.callback(sys.stdout.flush)
        pyrovae.cli.main()


def _begin(log, folder):
    os.chdir(folder)
    torch.set_num_threads(1)  # as every test
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
