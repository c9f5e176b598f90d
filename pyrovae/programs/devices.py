"""The device of a pair."""

from __future__ import annotations

import itertools

import torch

from pyrovae.compute.devices import resolve_device
from pyrovae.programs.pair import ModelAndGuide, Program
from pyrovae.programs.parameters import modules_of


def device_of(*programs: Program | ModelAndGuide, otherwise: torch.device | str = "cpu") -> torch.device:
    """Return the device of the programs' modules, or `otherwise` for plain functions."""
    for module in modules_of(*programs):
        for tensor in itertools.chain(module.parameters(), module.buffers()):
            return tensor.device
    return torch.device(otherwise)


def device_for(
    device: str | torch.device, *programs: Program | ModelAndGuide, otherwise: torch.device | str
) -> torch.device:
    """Choose the device on which to train programs.

    Plain functions cannot be moved to a device, so "auto" means `otherwise` for them.
    """
    if device == "auto" and not modules_of(*programs):
        return torch.device(otherwise)
    return resolve_device(device)
