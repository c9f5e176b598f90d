"""The random stream and the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyrovae.errors import InputError


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Draw from a stream that starts at `seed`, and leave the caller's stream where it was."""
    device = torch.device(device)
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that a name stands for; "auto" is CUDA where there is one, else the CPU.

    Raises:
        InputError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device '{device}' cannot be used: {reason} Use 'auto' or 'cpu'.") from error
    return resolved
