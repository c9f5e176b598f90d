"""Modules and tensors on a GPU that is not there: tensors with a shape and a device, and without values.

An operation on tensors of two devices raises an error, as it would on a GPU. So a mix of devices is found
on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

DEVICE = torch.device("cuda:0")


@contextmanager
def fake_gpu() -> Iterator[FakeTensorMode]:
    """Run operations without values, on devices that need not be there."""
    with FakeTensorMode() as mode, pyro.validation_enabled(False):
        yield mode


def move(module: nn.Module) -> None:
    """Put a module's parameters and buffers on the GPU, as `module.to` does.

    Tensors that are neither stay where they are, as they would.
    """
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, value in tensors.items():
                if value is not None:
                    tensors[name] = _like(value)


def _like(value: Tensor) -> Tensor:
    fake = torch.empty(value.shape, dtype=value.dtype, device=DEVICE)
    return nn.Parameter(fake, value.requires_grad) if isinstance(value, nn.Parameter) else fake


def data(*shape: int, classes: int = 0) -> Any:
    """Return data, or classes if their number is given, on the GPU."""
    if classes:
        return torch.zeros(shape, dtype=torch.long, device=DEVICE)
    return torch.zeros(shape, device=DEVICE)
