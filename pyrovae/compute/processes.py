"""Several processes that train, or evaluate, one model together, on one machine or on many.

    torchrun --nproc-per-node 4 -m pyrovae train vae --data mnist --out runs/first

starts them for the command line; a script that torchrun starts calls `fit` and `marginal_likelihood` as
ever, within `with processes.joined():`. Every process has all data and the whole model. Of each minibatch,
or of the data to evaluate, each takes its share; then their sums, or lists, are put together. The first
process alone writes files.

Gradients are summed by one all-reduce of all of them, not by DistributedDataParallel: that acts from
within `backward()`, which a compiled step does not have, on the parameters of modules, which those of
`pyro.param` are not.
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

T = TypeVar("T")

_joined = False


@contextmanager
def joined() -> Iterator[None]:
    """Work together with the other processes that torchrun has started; alone if it was not used.

    Within, all of them must make the same calls of `fit` and `marginal_likelihood`. The processes talk
    by NCCL between GPUs, of which each takes its own, and by Gloo between CPUs.
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
    """This process's number, from 0."""
    return dist.get_rank() if _joined else 0


def count() -> int:
    """How many processes work together."""
    return dist.get_world_size() if _joined else 1


def is_first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


def wait() -> None:
    """Go on when all processes have come here."""
    if _joined:
        dist.barrier()


@contextmanager
def first_before_others() -> Iterator[None]:
    """Run the block in the first process, and when that is done, in all others."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def share_of(values: Tensor) -> Tensor:
    """This process's share of the values `(n, ...)`."""
    return values[rank() :: count()] if _joined else values


def gathered(share: list[T], total: int) -> list[T]:
    """A list of `total` things of which process r has made the r-th of every `count()`."""
    if not _joined:
        return share
    shares: list[Any] = [None] * count()
    dist.all_gather_object(shares, share)
    return [shares[number % count()][number // count()] for number in range(total)]


def summed(values: T) -> T:
    """The sums over all processes of the tensors in a nest of lists, tuples and dictionaries."""
    if not _joined:
        return values
    leaves, structure = pytree.tree_flatten(values)
    tensors = [torch.as_tensor(leaf) for leaf in leaves]
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    sums = [part.view(t.shape).to(t.dtype) for part, t in zip(parts, tensors, strict=True)]
    return pytree.tree_unflatten(sums, structure)


def from_first(value: T) -> T:
    """What the first process has, in every process."""
    if not _joined:
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


@torch.no_grad()
def set_as_in_first(tensors: Iterable[Tensor]) -> None:
    """Give the tensors the values that they have in the first process."""
    if _joined:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def draw_apart() -> None:
    """From here on each process has random numbers of its own; the first goes on as if it were alone."""
    if not is_first():
        torch.manual_seed(int(torch.randint(2**62, ()).item()) + rank())
