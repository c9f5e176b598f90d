"""Run programs and then put back modes, buffers, parameters and the random streams.

The modules are those that the programs reach. If the search does not find a module, a hook finds it when it
is called.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import pyro
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from pyrovae.compute.turns import alone, registered
from pyrovae.programs.pair import ModelAndGuide, Program
from pyrovae.programs.parameters import store_beside
from pyrovae.programs.reach import modules_of


@contextmanager
def evaluating(*programs: Program | ModelAndGuide) -> Iterator[None]:
    """Run programs in evaluation mode and with a parameter store of their own; see `own_parameters`.

    Every submodule gets its mode back.
    """
    modules = modules_of(*programs)
    with store_beside(modules), _in_evaluation_mode(modules):
        yield


@contextmanager
def _in_evaluation_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    modes = _Modes()
    with alone(), registered(modes):
        try:
            with _each_part_once(partial(modes.change, mode=False), modules):
                yield
        finally:
            modes.leave()


class _Modes:
    """The modes of modules, to be put back."""

    def __init__(self) -> None:
        self.outside: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

    def change(self, parts: list[nn.Module], mode: bool) -> None:
        """Set the mode of some parts: True for training."""
        # All modes first: that of a compiled module is the mode of the module inside.
        self.outside.update({part: part.training for part in parts})
        for part in parts:
            part.training = mode

    def leave(self) -> None:
        """Put the modes back."""
        self.inside = {part: part.training for part in self.outside}
        for part, mode in self.outside.items():
            part.training = mode

    def come_back(self) -> None:
        """Change the modes again."""
        for part, mode in self.inside.items():
            self.outside[part] = part.training
            part.training = mode


@contextmanager
def in_training(*programs: Program | ModelAndGuide) -> Iterator[None]:
    """Run the programs' modules in training mode. Every submodule gets its mode back.

    A frozen module that is in evaluation mode stays so. Its batch statistics are then frozen as well.
    """
    modes = _Modes()
    with alone(), registered(modes):
        try:
            modes.change([part for module in modules_of(*programs) for part in _to_train(module)], True)
            yield
        finally:
            modes.leave()


def _to_train(module: nn.Module) -> Iterator[nn.Module]:
    parameters = list(module.parameters())
    if parameters and not module.training and not any(value.requires_grad for value in parameters):
        return
    yield module
    for child in module.children():
        yield from _to_train(child)


@contextmanager
def buffers_kept(*programs: Program | ModelAndGuide) -> Iterator[None]:
    """Put back the buffers of the programs' modules, such as the running means of batch normalisation."""
    with _buffers_kept(modules_of(*programs)):
        yield


@contextmanager
def _buffers_kept(modules: Sequence[nn.Module]) -> Iterator[None]:
    before: list[tuple[dict[str, Tensor | None], str, Tensor, Tensor]] = []

    def note(parts: list[nn.Module]) -> None:
        for part in parts:
            for name, buffer in part._buffers.items():
                if buffer is not None and not is_lazy(buffer):  # a lazy one has no value yet
                    before.append((part._buffers, name, buffer, buffer.clone()))

    try:
        with _each_part_once(note, modules):
            yield
    finally:
        for buffers, name, buffer, value in before:
            # A graph that is still to be differentiated may hold a buffer: it changes only where it must.
            if buffer.is_meta or not torch.equal(buffer, value):
                buffer.copy_(value)
            buffers[name] = buffer  # a module may also put another tensor in its place


@contextmanager
def nothing_moves(*programs: Program | ModelAndGuide) -> Iterator[None]:
    """Run programs without side effects, to look at what they do.

    Modules are in evaluation mode. There are no gradients and no validation. Modes, buffers, Pyro's
    parameter store and the random streams are put back.
    """
    started = torch.cuda.is_initialized()
    devices = range(torch.cuda.device_count()) if started else ()
    modules = modules_of(*programs)
    with (
        store_beside(modules, hand_back=False),
        _in_evaluation_mode(modules),
        _buffers_kept(modules),
        torch.random.fork_rng(devices),
        _python_streams_kept(),
        torch.no_grad(),
        pyro.validation_enabled(False),
    ):
        yield


@contextmanager
def _python_streams_kept() -> Iterator[None]:
    """Put back the random streams of Python and NumPy."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


@contextmanager
def _each_part_once(
    look: Callable[[list[nn.Module]], None], modules: Sequence[nn.Module]
) -> Iterator[None]:
    """Look at each part of the modules, and at the parts of other modules when they are called."""
    seen: WeakSet[nn.Module] = WeakSet()
    own_thread = threading.get_ident()

    def visit(module: nn.Module, _: object = None) -> None:
        if module not in seen and threading.get_ident() == own_thread:  # the hook sees all threads
            new = [part for part in module.modules() if part not in seen]
            seen.update(new)
            look(new)

    with alone():
        for module in modules:
            visit(module)
        if any("_orig_mod" in part._modules for part in seen):  # torch.compile(module) warns of such hooks
            yield
            return
        hook = register_module_forward_pre_hook(visit)
        try:
            yield
        finally:
            hook.remove()
