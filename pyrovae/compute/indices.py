"""Indices that lie out of range are found before a kernel uses them.

On a CPU a kernel refuses such an index by an error. On a GPU it fails an assertion, after which no other
operation of the process runs, or it reads elsewhere without a word. The check waits for the device, so it
stands where programs run for the first time on some data, and not in steps of training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

REFUSED_BY_KERNELS = ("cpu",)
"""The types of devices whose kernels refuse indices out of range."""

_IGNORED = -100  # the class that torch's losses leave out, by default


def unchecked(device: torch.device) -> bool:
    """Whether the kernels of a device do not refuse indices out of range."""
    return device.type not in REFUSED_BY_KERNELS


@contextmanager
def indices_checked(device: torch.device, *values: Any) -> Iterator[None]:
    """Within the block, refuse indices out of range on a device whose kernels do not refuse them.

    Args:
        device: the device of the computation.
        values: what the computation is given, also in lists and dictionaries. Indices are checked if there
            are whole numbers among them.

    Raises:
        IndexError: an index lies out of range. It is raised before the kernel runs.
    """
    with _Checked() if unchecked(device) and holds_whole_numbers(values) else nullcontext():
        yield


def holds_whole_numbers(values: Any) -> bool:
    """Whether a tensor of whole numbers is among some values, also in lists and dictionaries."""
    tensors = (leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor))
    return any(not (t.is_floating_point() or t.is_complex() or t.dtype == torch.bool) for t in tensors)


class _Checked(TorchDispatchMode):
    """Looks at the indices of each operation before it runs."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for indices, low, size in _uses(function.overloadpacket.__name__, args, kwargs or {}):
            check_range(indices, low, size)
        return function(*args, **(kwargs or {}))


def _uses(name: str, args: Any, kwargs: Any) -> Iterator[tuple[Tensor, int, int]]:
    """Yield the indices of an operation of torch, with the least one allowed and the number of places."""
    if name == "embedding":
        yield args[1], 0, args[0].shape[0]
    elif name in ("gather", "index_select") or name.startswith("scatter"):
        indices = args[2] if len(args) > 2 else kwargs["index"]
        size = args[0].shape[args[1]] if args[0].dim() else 1
        yield indices, 0, size
    elif name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"):
        yield from _by_dimension(args[0], args[1])
    elif name == "take":
        yield args[1], -args[0].numel(), args[0].numel()
    elif name in ("nll_loss_forward", "nll_loss2d_forward"):
        target, ignored = args[1], args[4] if len(args) > 4 else _IGNORED
        yield target[target != ignored], 0, args[0].shape[1 if args[0].dim() > 1 else 0]


def _by_dimension(values: Tensor, indices: Iterable[Tensor | None]) -> Iterator[tuple[Tensor, int, int]]:
    dim = 0
    for each in indices:
        if each is not None and each.dtype in (torch.bool, torch.uint8):  # a mask
            dim += each.dim()
            continue
        if each is not None:
            yield each, -values.shape[dim], values.shape[dim]
        dim += 1


def check_range(indices: Tensor, low: int, size: int) -> None:
    """Refuse indices below `low`, or not below `size`.

    Raises:
        IndexError: there is such an index.
    """
    # A program that is mapped over particles cannot read values.
    if not indices.numel() or torch._C._functorch.is_functorch_wrapped_tensor(indices):
        return
    least, greatest = (int(end) for end in indices.aminmax())
    if least < low or greatest >= size:
        raise IndexError(
            f"index out of range: the indices go from {least} to {greatest}, and there are {size} places"
        )
