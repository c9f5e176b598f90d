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

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree

from pyrovae.compute.streams import seed_streams

T = TypeVar("T")

_joined = False


@contextmanager
def joined() -> Iterator[None]:
    """Within the block, work together with the other processes that torchrun started.

    All processes must make the same calls of `fit` and `marginal_likelihood` in the block. Each process
    uses a GPU of its own if there are GPUs. They communicate by NCCL between GPUs and by Gloo between CPUs.
    A process that torchrun did not start works alone.
    """
    global _joined
    if _joined or not dist.is_torchelastic_launched():
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    _joined = True
    try:
        yield
    finally:
        _joined = False
        dist.destroy_process_group()


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
    shares: list[Any] = [None] * count()
    dist.all_gather_object(shares, share)
    return [shares[number % count()][number // count()] for number in range(total)]


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
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    sums = iter([part.view(t.shape).to(t.dtype) for part, t in zip(parts, tensors, strict=True)])
    return pytree.tree_unflatten([None if leaf is None else next(sums) for leaf in leaves], structure)


def from_first(value: T) -> T:
    """Return the first process's value in every process. It is pickled on the way."""
    if not _joined:
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


@torch.no_grad()
def set_as_in_first(tensors: Iterable[Tensor]) -> None:
    """Set the tensors in every process to their values in the first."""
    if _joined:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def draw_apart() -> None:
    """Give each process random numbers of its own from here on; those of the first do not change."""
    if not is_first():
        seed_streams(int(torch.randint(2**62, ()).item()) + rank())
