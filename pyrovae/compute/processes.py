"""Train or evaluate a model with several processes, on one machine or on several.

    torchrun --nproc-per-node 4 -m pyrovae train vae --data mnist --out runs/first

starts four processes of the command line. A script that torchrun starts calls `fit` and
`marginal_likelihood` as usual, in a block `with processes.joined():`. Every process has all data and the
whole model, and computes its share of each minibatch, or of the data to evaluate. Then the processes add
their sums, or join their lists. Only the first process writes files.

One all-reduce sums all gradients. DistributedDataParallel is not used, for two reasons. It acts inside of
`backward()`, which a compiled step does not call. It acts on the parameters of modules only, not on those
of `pyro.param`.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree

from pyrovae.compute.streams import seed_streams
from pyrovae.errors import InputError, ProcessError

T = TypeVar("T")

TIMEOUT = "PYROVAE_TIMEOUT"
"""The variable with the number of seconds after which another process counts as lost."""

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

_joined = False
_seconds = 1800.0

was_joined = False
"""Whether this process has worked together with others."""

tells = True
"""Whether this process is the one that tells of a failure of all, after `joined` has ended."""


@contextmanager
def joined(timeout: float | None = None) -> Iterator[None]:
    """Within the block, work together with the other processes that torchrun started.

    All processes must make the same calls of `fit` and `marginal_likelihood` in the block, with the same
    data and settings. Each process uses a GPU of its own if there are GPUs. They communicate by NCCL
    between GPUs and by Gloo between CPUs. What they send is numbers and plain values, never a pickle. A
    process that torchrun did not start works alone.

    Args:
        timeout: the number of seconds without an answer after which another process counts as lost. None
            means that of the variable PYROVAE_TIMEOUT, or 1,800.

    Raises:
        InputError: the variables of torchrun are incomplete, or the timeout is no number above 0.
        ProcessError: another process has ended, or does not answer.
    """
    global _joined, _seconds, was_joined
    if _joined or not is_launched():
        yield
        return
    _seconds = _checked_timeout(timeout)
    wait_at_most = timedelta(seconds=_seconds)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with _explained():
        store, number, total = next(dist.rendezvous("env://", timeout=wait_at_most))
        own = dist.PrefixStore("pyrovae", store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=store,
            rank=number,
            world_size=total,
            timeout=wait_at_most,
        )
    _joined = was_joined = True
    try:
        yield
    except Exception:
        _agree_who_tells(own)
        raise
    finally:
        _joined = False
        dist.destroy_process_group()


def is_launched() -> bool:
    """Whether torchrun started this process.

    Raises:
        InputError: some variables of torchrun are set, and others are not.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or not any(name in os.environ for name in _VARIABLES):
        return False
    if missing := [name for name in _VARIABLES if name not in os.environ]:
        raise InputError(
            f"the variable TORCHELASTIC_RUN_ID says that torchrun started this process, but "
            f"{', '.join(missing)} are not set: start it by torchrun, or unset TORCHELASTIC_RUN_ID."
        )
    return True


def _checked_timeout(timeout: float | None) -> float:
    given = os.environ.get(TIMEOUT, "1800") if timeout is None else timeout
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        name = TIMEOUT if timeout is None else "timeout"
        raise InputError(f"{name} is {given!r}; it must be a number of seconds above 0.")
    return seconds


def _agree_who_tells(store: Any) -> None:
    """Let one process tell of a failure: the first one if it fails as well, else the first that fails."""
    global tells
    try:
        if rank() == 0:
            store.set("failure of 0", "")
        else:
            with suppress(RuntimeError):
                store.wait(["failure of 0"], timedelta(seconds=1))
                tells = False
                return
        tells = store.add("failures", 1) == 1
    except RuntimeError:  # the store has ended with the process that held it, which is the first
        tells = rank() == 0


@contextmanager
def _explained() -> Iterator[None]:
    """Say in one line that another process is lost.

    Raises:
        ProcessError: the communication has failed.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "timed out" in text.lower() or "timeout" in text.lower():
            raise ProcessError(
                f"another process has not answered for {_seconds:g} seconds: it hangs, or has more to do. "
                f"Look at its output, or wait for longer by {TIMEOUT}=SECONDS."
            ) from error
        raise ProcessError(
            "another process has ended, or cannot be reached: look at its output, and start all again "
            "('pyrovae resume' continues a training)."
        ) from error


def rank() -> int:
    """Return the number of this process, counted from 0."""
    return dist.get_rank() if _joined else 0


def count() -> int:
    """Return the number of processes that work together."""
    return dist.get_world_size() if _joined else 1


def is_first() -> bool:
    """Whether this is the first process, the one that writes files and prints."""
    return rank() == 0


def wait() -> None:
    """Wait until all processes have called this function."""
    if _joined:
        with _explained():
            dist.barrier()


@contextmanager
def first_before_others() -> Iterator[None]:
    """Run the block in the first process, and afterwards in all others."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def share_of(values: Tensor) -> Tensor:
    """Return this process's share of the values `(n, ...)`: every `count()`-th row, from row `rank()`."""
    return values[rank() :: count()] if _joined else values


def gathered(share: list[T], total: int) -> list[T]:
    """Join the lists of all processes.

    Args:
        share: the items that this process made: those at `rank()`, `rank() + count()`, and so on.
        total: the number of items of all processes together.

    Returns:
        All items in order, in every process.
    """
    if not _joined:
        return share
    shares = _all(share)
    return [shares[number % count()][number // count()] for number in range(total)]


def check_alike(values: Mapping[str, Any]) -> None:
    """Refuse values that differ between processes.

    Args:
        values: tensors and plain values by name, such as the data and each setting.

    Raises:
        InputError: a value of another process differs from that of the first one.
    """
    if not _joined:
        return
    first, *others = _all({name: _digest(value) for name, value in values.items()})
    for number, other in enumerate(others, start=1):
        if differ := [name for name in {**first, **other} if first.get(name) != other.get(name)]:
            raise InputError(
                f"process {number} has another value of {', '.join(differ)} than process 0: start all "
                "processes with the same data, options and versions."
            )


def _digest(value: Any) -> str:
    if isinstance(value, Tensor):
        raw = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return f"{tuple(value.shape)} {hashlib.sha256(raw).hexdigest()}"
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _all(value: T) -> list[T]:
    """Return the values of all processes, in the order of their numbers."""
    content = _encoded(value)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(count())]
    with _explained():
        dist.all_gather(sizes, torch.tensor([len(content)]))
        largest = max(int(size) for size in sizes)
        parts = [torch.zeros(largest, dtype=torch.uint8) for _ in range(count())]
        dist.all_gather(parts, torch.nn.functional.pad(content, (0, largest - len(content))))
    return [_decoded(part[: int(size)]) for part, size in zip(parts, sizes, strict=True)]


def _encoded(value: Any) -> Tensor:
    """Return a value as bytes in torch's format, as in a checkpoint, `(n,)`."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _decoded(content: Tensor) -> Any:
    # Only tensors and plain values are read: other bytes, from whoever reaches the socket, run nothing.
    return torch.load(io.BytesIO(content.numpy().tobytes()), weights_only=True)


def summed(values: T) -> T:
    """Add up tensors or numbers over all processes.

    Args:
        values: tensors and numbers in nested lists, tuples and dictionaries, alike in every process. None
            stays None.

    Returns:
        The sums in the same nested form, as tensors. A process that works alone gets `values` itself.
    """
    if not _joined:
        return values
    leaves, structure = pytree.tree_flatten(values)
    tensors = [torch.as_tensor(leaf) for leaf in leaves if leaf is not None]
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    with _explained():
        dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    sums = iter([part.view(t.shape).to(t.dtype) for part, t in zip(parts, tensors, strict=True)])
    return pytree.tree_unflatten([None if leaf is None else next(sums) for leaf in leaves], structure)


def from_first(value: T) -> T:
    """Return the first process's value, of tensors and plain values, in every process."""
    if not _joined:
        return value
    content = _encoded(value) if is_first() else torch.empty(0, dtype=torch.uint8)
    size = torch.tensor([len(content)])
    with _explained():
        dist.broadcast(size, src=0)
        content = content if is_first() else torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(content, src=0)
    found: T = _decoded(content)
    return found


@torch.no_grad()
def set_as_in_first(tensors: Iterable[Tensor]) -> None:
    """Set the tensors in every process to their values in the first."""
    if _joined:
        with _explained():
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)


def draw_apart() -> None:
    """Give each process random numbers of its own from here on; those of the first do not change."""
    if not is_first():
        seed_streams(int(torch.randint(2**62, ()).item()) + rank())
