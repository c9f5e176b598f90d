"""What programs remember in Python: the attributes, closures and globals that their results may depend on.

A record of a program's tensor operations does not see these. So whoever keeps a record looks here whether
they have changed.
"""

from __future__ import annotations

import functools
import itertools
import random
import sys
import types
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LIMIT = 10_000
"""The number of values that are looked at. Those nearest to the programs come first."""

# Code of these packages holds no state of the user's programs. The objects that it makes may do.
_LIBRARIES = frozenset(sys.stdlib_module_names) | {
    "torch",
    "torchvision",
    "pyro",
    "numpy",
    "zuko",
    "pyrovae",
}

_PLAIN = (bool, int, float, complex, str, bytes, types.NoneType)


class Identity(int):
    """Which tensor an attribute is. Its values are not looked at."""


def remembered(**programs: Any) -> dict[str, Any]:
    """Return the plain values that programs can reach in Python, and the identities of their tensors.

    Plain values are numbers, texts, small NumPy arrays, and the states of generators of random numbers.
    They are looked for in the attributes of modules and other objects, in lists and dictionaries, and in
    the closures, defaults and globals of functions.

    Args:
        **programs: functions, methods or objects, by the names that they have in the result.

    Returns:
        The values by their paths.

    Example:
        >>> settings = {"tau": 0.5}
        >>> def program_of(settings):
        ...     return lambda x: x / settings["tau"]
        >>> remembered(model=program_of(settings))
        {"model.settings['tau']": 0.5}
    """
    found: dict[str, Any] = {}
    seen: dict[int, Any] = {}  # holds the objects, so that no id is used again
    todo = deque(programs.items())
    for _ in range(LIMIT):
        if not todo:
            break
        path, value = todo.popleft()
        state = _state(value)
        if state is not None:
            found[path] = state[0]
        elif id(value) not in seen:
            seen[id(value)] = value
            todo.extend(_parts(path, value))
    return found


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the paths of the plain values that differ, are new or are gone. Tensors are left out."""
    old, new = _plain(before), _plain(after)
    same = {path for path, value in new.items() if path in old and old[path] == value}
    return [path for path in new | old if path not in same]


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in found.items() if not isinstance(value, Identity)}


def _state(value: Any) -> tuple[Any] | None:
    """Return the plain value of an object, in a tuple; None if it has none."""
    if isinstance(value, _PLAIN):
        return (value,)
    if isinstance(value, Tensor):
        return (Identity(id(value)),)
    if isinstance(value, np.ndarray | np.generic):
        return (value.tobytes(),) if value.nbytes <= 4096 else (Identity(id(value)),)
    if isinstance(value, random.Random):
        return (value.getstate(),)
    if isinstance(value, np.random.Generator):
        return (repr(value.bit_generator.state),)
    if isinstance(value, np.random.RandomState):
        return (repr(value.get_state()),)
    if isinstance(value, itertools.count):
        return (repr(value),)
    if isinstance(value, torch.Generator):
        return (value.get_state().numpy().tobytes(),)
    return None


def _parts(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Return the objects inside of an object, with their paths."""
    if isinstance(value, functools.partial):
        yield from ((path, value.func), (f"{path}.args", value.args), (f"{path}.keywords", value.keywords))
    elif isinstance(value, types.BuiltinMethodType):
        yield path, value.__self__
    elif isinstance(value, types.MethodType):
        yield from ((path, value.__self__), (path, value.__func__))
    elif isinstance(value, staticmethod | classmethod):
        yield path, value.__func__
    elif isinstance(value, property):
        yield path, value.fget
    elif isinstance(value, types.FunctionType):
        yield from _of_function(path, value)
    elif isinstance(value, dict):
        for number, (key, part) in enumerate(list(value.items())):
            yield f"{path}[{key!r}]" if isinstance(key, _PLAIN) else f"{path}[{number}]", part
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from ((f"{path}[{number}]", part) for number, part in enumerate(list(value)))
    elif isinstance(value, type):
        if not _of_library(value):
            yield from ((f"{value.__qualname__}.{name}", part) for name, part in vars(value).items())
    elif not isinstance(value, types.ModuleType):
        yield from _attributes(path, value)
        yield from ((path, kind) for kind in type(value).__mro__)


def _of_function(path: str, function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # a variable that has no value yet
            yield f"{path}.{name}", cell.cell_contents
    yield f"{path}.defaults", [each for each in (function.__defaults__, function.__kwdefaults__) if each]
    yield f"{path}.attributes", vars(function)
    if not _of_library(function):
        for name in sorted(_names(function.__code__) & function.__globals__.keys()):
            yield f"{function.__module__}.{name}", function.__globals__[name]


def _names(code: types.CodeType) -> set[str]:
    """Return the names of the globals and attributes that code uses, with the functions inside of it."""
    inside = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*map(_names, inside))


def _attributes(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    for name, part in getattr(value, "__dict__", {}).items():
        if isinstance(value, nn.Module) and name in ("_modules", "_parameters", "_buffers"):
            yield from ((f"{path}.{each}", inside) for each, inside in part.items())
        else:
            yield f"{path}.{name}", part


def _of_library(value: Any) -> bool:
    return str(getattr(value, "__module__", None)).partition(".")[0] in _LIBRARIES
