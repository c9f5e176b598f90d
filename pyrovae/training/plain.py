"""Plain values: numbers, strings, lists and dictionaries, as a checkpoint holds them beside tensors."""

from __future__ import annotations

import functools
import hashlib
import io
import sys
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.errors import CheckpointError

_PLAIN = (bool, int, float, complex, str, bytes, type(None), Tensor)


def plain(value: Any) -> Any:
    """Return a value with NumPy's scalars and arrays replaced by Python's numbers and by tensors."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, Mapping):
        pairs = {plain(key): plain(entry) for key, entry in value.items()}
        if type(value) is dict:
            return pairs
        copied: Any = value.copy()  # type: ignore[attr-defined]
        copied.clear()
        copied.update(pairs)
        return copied
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value


def make_plain(holder: Any) -> None:
    """Replace NumPy's scalars, and tensors of one number, in an object's attributes by Python's numbers."""
    for name, value in getattr(holder, "__dict__", {}).items():
        if isinstance(value, Tensor) and value.dim() == 0:
            setattr(holder, name, value.item())
        elif _holds_numpy(value):  # only then, since a container may be shared with code outside
            setattr(holder, name, plain(value))


def _holds_numpy(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_numpy, [*value.keys(), *value.values()]))
    if isinstance(value, list | tuple):
        return any(map(_holds_numpy, value))
    return isinstance(value, np.generic)


def check_readable(content: Mapping[str, Any]) -> None:
    """Check that a checkpoint's content can be read back as tensors and plain values alone.

    Raises:
        CheckpointError: it cannot. The message names the entry that is something else.
    """
    if _is_readable(content):
        return
    path, found = _unreadable(content, ())
    raise CheckpointError(
        f"a checkpoint holds tensors and plain values alone, but {' > '.join(map(str, path))} is a "
        f"{type(found).__name__}: convert it to a number, a string, a list, a dictionary or a tensor, or "
        "train without folder=..."
    )


def _is_readable(value: Any) -> bool:
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception:  # torch raises its own and pickle's errors here
        return False
    return True


def _unreadable(value: Any, path: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
    """Return the innermost entry that cannot be read, and where it is."""
    inside: Any = value.items() if isinstance(value, Mapping) else ()
    if isinstance(value, list | tuple):
        inside = enumerate(value)
    for key, entry in inside:
        if not isinstance(entry, _PLAIN) and not _is_readable(entry):
            return _unreadable(entry, (*path, key))
    return path, value


def described(value: Any) -> Any:
    """Describe a setting by plain values, so that two settings can be compared after a run was interrupted.

    A function is described by its name, its code, and the plain values that it keeps; another object by
    its type and its plain attributes; data by a digest.
    """
    value = plain(value)
    if isinstance(value, bool | int | float | str | type(None)):
        return value
    if isinstance(value, Tensor):
        return (
            value.item() if value.numel() == 1 else f"{tuple(value.shape)} {_digest(str(value.tolist()))}"
        )
    if isinstance(value, Mapping):
        return {str(key): described(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [described(entry) for entry in value]
    if isinstance(value, functools.partial):
        return [described(value.func), described(value.args), described(value.keywords)]
    if isinstance(value, types.MethodType):
        return [described(value.__func__), _name(type(value.__self__))]
    if isinstance(value, types.FunctionType):
        return _function(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return _name(value)
    return [_name(type(value)), _plain_attributes(vars(value) if hasattr(value, "__dict__") else {})]


def same(one: Any, other: Any) -> bool:
    """Whether two descriptions agree. Code that two versions of Python have compiled is not compared."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.get("python") != other.get("python"):
            return True
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def _function(function: types.FunctionType) -> list[Any]:
    cells = [cell.cell_contents for cell in function.__closure__ or () if not _empty(cell)]
    kept = [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    compiled = {"python": list(sys.version_info[:2]), "code": _code(function.__code__)}
    return [_name(function), [_shallow(value) for value in kept], compiled]


def _shallow(value: Any) -> Any:
    """Describe what a function keeps. An object's attributes may change while it is used."""
    if isinstance(plain(value), bool | int | float | str | type(None) | list | tuple | Tensor):
        return described(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return _name(value)
    return _name(type(value))


def _code(code: types.CodeType) -> str:
    inner = [_code(const) for const in code.co_consts if isinstance(const, types.CodeType)]
    constants = [
        sorted(map(repr, const)) if isinstance(const, frozenset) else repr(const)
        for const in code.co_consts
        if not isinstance(const, types.CodeType)
    ]
    return _digest(repr((code.co_names, constants, inner)).encode() + code.co_code)


def _empty(cell: Any) -> bool:
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True


def _plain_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: plain(value)
        for name, value in attributes.items()
        if isinstance(plain(value), bool | int | float | str | type(None))
    }


def _name(value: Any) -> str:
    # Without the module, which is __main__ in a script and has its own name where it is imported.
    return str(value.__qualname__)


def _digest(content: bytes | str) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()[:16]
