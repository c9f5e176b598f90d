"""The parameters that a program shows."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from pyro.poutine.messenger import _bound_partial, _context_wrap
from torch import nn

from pyrovae.programs.pair import Program


def parameters_of(program: Program) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters of a program by name, also within Pyro's handlers; None if it shows none."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    while isinstance(program, functools.partial):
        if isinstance(program, _bound_partial):  # a handled program, written as a partial function
            program = program.func
            continue
        within, bound = program.func, program.args
        if within is _context_wrap:
            within, bound = bound[1], bound[2:]
        args, kwargs, program = (*bound, *args), {**program.keywords, **kwargs}, within
    called = program.forward if isinstance(program, nn.Module) else program
    try:
        return inspect.signature(functools.partial(called, *args, **kwargs)).parameters
    except (TypeError, ValueError):  # a builtin, or a callable that shows no signature
        return None
