"""The random streams that a program may draw from: those of torch, NumPy and Python."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def streams(device: torch.device | str = "cpu", everywhere: bool = True) -> dict[str, Any]:
    """Return the states of the random streams, by name.

    Args:
        device: a device. If it is a GPU, the state of its own stream is part of the result.
        everywhere: whether NumPy's and Python's streams are part of it. Theirs take 40 microseconds.
    """
    device = torch.device(device)
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    if everywhere:
        states |= {"python": random.getstate(), "numpy": np.random.get_state()}
    return states


def set_streams(states: dict[str, Any], device: torch.device | str = "cpu") -> None:
    """Restore the states of the random streams.

    Args:
        states: a result of `streams`.
        device: the device whose stream is restored beside the others, if the result has it.
    """
    device = torch.device(device)
    torch.set_rng_state(states["cpu"].cpu())
    if "python" in states:
        random.setstate(states["python"])
        np.random.set_state(states["numpy"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"].cpu())


def seed_streams(seed: int) -> None:
    """Seed the random streams of torch, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def as_plain(states: dict[str, Any]) -> dict[str, Any]:
    """Return the states of `streams` as tensors and plain numbers, for a checkpoint."""
    version, numbers, gauss = states["python"]
    name, keys, *rest = states["numpy"]
    return states | {
        "python": [version, torch.tensor(numbers), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
    }


def from_plain(states: dict[str, Any]) -> dict[str, Any]:
    """Return the states that `as_plain` has made plain."""
    version, numbers, gauss = states["python"]
    name, keys, *rest = states["numpy"]
    return states | {
        "python": (version, tuple(numbers.tolist()), gauss),
        "numpy": (name, keys.cpu().numpy().astype(np.uint32), *rest),
    }
