"""What programs remember in Python: the attributes, closures and globals that their results may depend on.

A record of a program's tensor operations does not see these. So whoever keeps a record looks here whether
they have changed.
"""

from __future__ import annotations

import itertools
import random
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae.programs.reach import MOST_OBJECTS, WITHOUT_MODULES, Named, held, joined

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
        {'settings.tau': 0.5}
    """
    found: dict[str, Any] = {}
    seen: dict[int, Any] = {}  # holds the objects, so that no id is used again
    todo = deque(programs.items())
    for _ in range(MOST_OBJECTS):
        if not todo:
            break
        name, value = todo.popleft()
        if (state := _state(value)) is not None:
            # Variables of several functions may have one name.
            found[name if name not in found else f"{name} ({len(found)})"] = state[0]
        elif id(value) not in seen and not isinstance(value, WITHOUT_MODULES):
            seen[id(value)] = value
            todo.extend(_parts(name, value))
    return found


def _parts(name: str, value: Any) -> Iterator[Named]:
    """Return the objects inside of an object. Of a module these are also its parts and tensors."""
    if isinstance(value, nn.Module):
        for inside in (value._modules, value._parameters, value._buffers):
            yield from ((joined(name, each), part) for each, part in inside.items())
    yield from held(name, value)


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
    if isinstance(value, types.BuiltinMethodType):  # random.Random().random
        value = value.__self__
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
