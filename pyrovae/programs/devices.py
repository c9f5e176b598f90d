"""The device of a pair."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pyro
import torch
from torch import Tensor

from pyrovae.compute.devices import resolve_device
from pyrovae.programs.pair import ModelAndGuide, Program
from pyrovae.programs.reach import modules_of, owners_of, strings_of


def device_of(*programs: Program | ModelAndGuide, otherwise: torch.device | str = "cpu") -> torch.device:
    """Return the device of the programs' modules, or else of the store's parameters that they name.

    Args:
        programs: the programs.
        otherwise: the device of programs that have neither.
    """
    return next((tensor.device for tensor in _tensors(*programs)), torch.device(otherwise))


def device_for(
    device: str | torch.device, *programs: Program | ModelAndGuide, otherwise: torch.device | str
) -> torch.device:
    """Choose the device on which to train programs.

    "auto" means CUDA if it is available, for programs that are methods of modules. Plain functions may hold
    tensors that cannot be moved, so "auto" means the device on which they are, as in `device_of`.
    """
    if device == "auto" and not owners_of(*programs):
        return device_of(*programs, otherwise=otherwise)
    return resolve_device(device)


def _tensors(*programs: Program | ModelAndGuide) -> Iterator[Tensor]:
    for module in modules_of(*programs):
        yield from itertools.chain(module.parameters(), module.buffers())
    store = pyro.get_param_store()
    yield from (value for name, value in store.named_parameters() if name in strings_of(*programs))
