"""The device and the random streams."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from numbers import Integral
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pyrovae.compute.streams import seed_streams, set_streams, streams
from pyrovae.compute.turns import kept
from pyrovae.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Within the block, draw from random streams that start at `seed`; afterwards restore the caller's.

    They are the streams of torch, NumPy and Python.

    Args:
        seed: the seed of the streams.
        device: the device of the draws. The stream of a GPU is set and restored beside the CPU's.

    Raises:
        InputError: the seed is not a whole number of 64 bits.
    """
    if not isinstance(seed, Integral) or not -(2**63) <= seed < 2**64:
        raise InputError(f"the seed is {seed!r}; it must be a whole number that fits into 64 bits.")
    with kept(partial(streams, device), partial(set_streams, device=device)):
        seed_streams(int(seed))
        yield


def automatic() -> torch.device:
    """Return the device that "auto" stands for: CUDA if it is available, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device of a name.

    Args:
        device: a device or its name, such as "cpu" or "cuda:1"; "auto" is CUDA if available, else the CPU.

    Raises:
        InputError: the device is unknown or not available.
    """
    if device == "auto":
        return automatic()
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device '{device}' cannot be used: {reason} Use 'auto' or 'cpu'.") from error
    if resolved.type == "meta":
        raise InputError("device 'meta' cannot be used: its tensors hold no values. Use 'auto' or 'cpu'.")
    return resolved


def moved(values: Any, device: torch.device) -> Any:
    """Return values with all tensors on a device, also those in lists and dictionaries."""
    if all(leaf.device == device for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)):
        return values
    return pytree.tree_map_only(Tensor, lambda value: value.to(device), values)


def on_the_cpu(function: F) -> F:
    """Let a function take tensors on any device: it gets them on the CPU."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = moved((args, kwargs), torch.device("cpu"))
        return function(*args, **kwargs)

    return cast(F, run)
