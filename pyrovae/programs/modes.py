"""Training mode, evaluation mode and buffers of the modules behind a pair."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyrovae.programs.pair import ModelAndGuide, Program
from pyrovae.programs.parameters import modules_of


@contextmanager
def evaluating(*programs: Program | ModelAndGuide) -> Iterator[None]:
    """Run the programs' modules in evaluation mode, and put every submodule back as it was."""
    with _in_mode(False, *programs):
        yield


@contextmanager
def in_training(*programs: Program | ModelAndGuide) -> Iterator[None]:
    """Run the programs' modules in training mode, and put every submodule back as it was."""
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
    """Put back what the programs' modules note as they run, such as the means of batch normalisation."""
    buffers = [buffer for module in modules_of(*programs) for buffer in module.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
