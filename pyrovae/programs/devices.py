"""The device of a pair, and where results go.

Whatever takes data moves them to the device of the pair, so they may lie on any other. What is computed for
each datum, such as latents, images or class probabilities, comes back to where the caller's data were. What
is drawn without data is on the CPU. Evidence, its errors and histories are 64-bit numbers on the CPU.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import pyro
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pyrovae.compute.devices import moved, resolve_device
from pyrovae.compute.indices import indices_checked
from pyrovae.programs.pair import ModelAndGuide, Program
from pyrovae.programs.reach import modules_of, owners_of, strings_of

F = TypeVar("F", bound=Callable[..., Any])


def back_to_caller(function: F) -> F:
    """Let a function of a pair take tensors on any device, and bring its results back to there.

    The function gets all tensors on the CPU, and moves those that it needs to the device of the pair. Its
    results go to where the first of the caller's tensors was, or stay on the CPU if there is none. Indices
    among the tensors are checked before a kernel uses them.
    """

    @functools.wraps(function)
    def run(pair: ModelAndGuide, *args: Any, **kwargs: Any) -> Any:
        first = next((v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor)), None)
        if first is None:
            return function(pair, *args, **kwargs)
        own = next(_tensors(pair), None)  # plain functions without any run where the data are
        with indices_checked(first.device if own is None else own.device, args, kwargs):
            if own is not None:
                args, kwargs = moved((args, kwargs), torch.device("cpu"))
            return moved(function(pair, *args, **kwargs), first.device)

    return cast(F, run)


def beside(programs: Program | ModelAndGuide, values: Any) -> Any:
    """Return values with all tensors on the device of the programs. Plain functions run where these are."""
    own = next(_tensors(programs), None)
    return values if own is None else moved(values, own.device)


@torch.no_grad()
def move_to(device: torch.device, *programs: Program | ModelAndGuide | Callable[..., Any]) -> None:
    """Move the modules that programs reach, and the parameters in Pyro's store that they name."""
    for module in modules_of(*programs):
        module.to(device)
    for value in _in_store(*programs):
        value.data = value.data.to(device)


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
    yield from _in_store(*programs)


def _in_store(*programs: Program | ModelAndGuide) -> Iterator[Tensor]:
    store = dict(pyro.get_param_store().named_parameters())
    names = strings_of(*programs) if store else set()
    yield from (value for name, value in store.items() if name in names)
