"""Run programs and then put back modes, buffers, parameters and the random stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyrovae.programs.pair import ModelAndGuide, Program
from pyrovae.programs.parameters import modules_of, own_parameters


@contextmanager
def evaluating(*programs: Program | ModelAndGuide) -> Iterator[None]:
    """Run the programs' modules in evaluation mode. Every submodule gets its mode back."""
    with _in_mode(False, *programs):
        yield


@contextmanager
def in_training(*programs: Program | ModelAndGuide) -> Iterator[None]:
    """Run the programs' modules in training mode. Every submodule gets its mode back."""
    with _in_mode(True, *programs):
        yield


@contextmanager
def _in_mode(mode: bool, *programs: Program | ModelAndGuide) -> Iterator[None]:
    parts = [part for module in modules_of(*programs) for part in module.modules()]
    modes = [part.training for part in parts]
    try:
        for part in parts:
            part.training = mode
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


@contextmanager
def buffers_kept(*programs: Program | ModelAndGuide) -> Iterator[None]:
    """Put back the buffers of the programs' modules, such as the running means of batch normalisation."""
    buffers = [buffer for module in modules_of(*programs) for buffer in module.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


@contextmanager
def nothing_moves(*programs: Program | ModelAndGuide) -> Iterator[None]:
    """Run programs without side effects, to look at what they do.

    Modules are in evaluation mode, also those that a plain function calls. There are no gradients and no
    validation. Modes, Pyro's parameter store and the random stream are put back.
    """
    started = torch.cuda.is_initialized()
    devices = range(torch.cuda.device_count()) if started else ()
    with (
        evaluating(*programs),
        _evaluating_when_called(),
        torch.random.fork_rng(devices),
        torch.no_grad(),
        pyro.validation_enabled(False),
        own_parameters(hand_back=False),
    ):
        yield


@contextmanager
def _evaluating_when_called() -> Iterator[None]:
    """Put the modules that a plain function calls into evaluation mode. A hook finds them when they run."""
    was_training: list[nn.Module] = []

    def switch(module: nn.Module, _: object) -> None:
        if module.training:
            was_training.append(module)
            module.training = False

    hook = register_module_forward_pre_hook(switch)
    try:
        yield
    finally:
        hook.remove()
        for module in was_training:
            module.training = True
