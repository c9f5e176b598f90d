"""The modules that programs reach: their own, and those that functions, closures and objects hold.

The programs of a pair may be plain functions, lambdas, partials, or methods of plain objects. Their
networks may then be in closures, globals, attributes or lists. The search follows what the programs hold,
and the globals that their code names. It looks at each object once, and at no more than `MOST_OBJECTS` of
them. It calls nothing.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import itertools
import logging
import sys
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae.programs.pair import ModelAndGuide, Program, programs_of

MOST_OBJECTS = 20_000
"""The number of objects at which the search ends. It comes to the nearest first."""


WITHOUT_MODULES = (
    Tensor, np.ndarray, np.generic, str, bytes, int, float, complex, type(None), torch.device, torch.dtype,
    types.ModuleType, types.CodeType, types.BuiltinFunctionType, types.GeneratorType, logging.Logger,
)  # fmt: skip
"""The types of objects that are not looked into."""

_CONTAINERS = (OrderedDict, dict, list, tuple)

_OF_EVERY_MODULE = vars(nn.Module()).keys() - {"_forward_hooks", "_forward_pre_hooks"}

Named = tuple[str, Any]
"""An object and the name of the variable, attribute or item that holds it; "" for a program itself."""

_names_of_code: weakref.WeakKeyDictionary[types.CodeType, tuple[tuple[str, ...], ...]]
_names_of_code = weakref.WeakKeyDictionary()


def modules_of(*programs: Program | ModelAndGuide) -> list[nn.Module]:
    """Return the modules that the programs reach, each once, in the order of `named_modules`."""
    return list(named_modules(*programs).values())


def named_modules(*programs: Program | ModelAndGuide) -> dict[str, nn.Module]:
    """Return the modules that the programs reach, by name.

    The owners come first: modules that are programs, or whose methods are programs, also behind partials
    and Pyro's handlers. Their names are "0", "1", ... Another module has the name of the variable,
    attribute or item that holds it, such as "decoder" or "nets.0". The programs need not use it.
    """
    owners, others, _ = _search(programs)
    named = {str(number): owner for number, owner in enumerate(owners)}
    for name, module in others:
        named[unused_name(name, named)] = module
    return named


def owners_of(*programs: Program | ModelAndGuide) -> list[nn.Module]:
    """Return the modules that are programs, or whose methods are programs, each once."""
    return _search(programs).owners


def strings_of(*programs: Program | ModelAndGuide) -> set[str]:
    """Return the texts in the code of the functions that the programs reach, such as the names of sites."""
    found: set[str] = set()
    stack = [thing.__code__ for thing in _search(programs).objects if isinstance(thing, types.FunctionType)]
    while stack:
        for const in stack.pop().co_consts:
            if isinstance(const, types.CodeType):
                stack.append(const)
            elif isinstance(const, str):
                found.add(const)
    return found


def prefix_of(name: str, names: Iterable[str]) -> str:
    """Return what stands before the names of a module's tensors: nothing for a pair's only owner.

    Args:
        name: the module's name in `named_modules`.
        names: the names of all modules.
    """
    only_owner = name.isdigit() and sum(each.isdigit() for each in names) == 1
    return "" if only_owner else f"{name}."


def unused_name(name: str, used: Iterable[str]) -> str:
    """Return the name, with a number behind it if it is in use."""
    numbered = (f"{name} ({number})" for number in itertools.count(2))
    return next(each for each in itertools.chain([name], numbered) if each not in used)


class _Found(NamedTuple):
    """The result of a search: owners, other modules with their names, and all objects.

    A module that is a part of another one is not among the others.
    """

    owners: list[nn.Module]
    others: list[tuple[str, nn.Module]]
    objects: list[object]


def _search(programs: Iterable[Program | ModelAndGuide]) -> _Found:
    queue: deque[Named] = deque(("", program) for each in programs for program in programs_of(each))
    seen: dict[int, object] = {}  # the objects too: the id of one that is gone may be given to another
    found: list[tuple[str, nn.Module]] = []
    parts: set[int] = set()
    while queue and len(seen) < MOST_OBJECTS:
        name, thing = queue.popleft()
        if id(thing) in seen:
            continue
        seen[id(thing)] = thing
        inside = held(name, thing)
        if isinstance(thing, nn.Module):
            found.append((name, thing))
            inner = [(path, part) for path, part in thing.named_modules() if part is not thing]
            parts |= {id(part) for _, part in inner}
            inside = itertools.chain(inside, *(held(joined(name, path), part) for path, part in inner))
        for each in inside:
            if not _is_left_out(each[1]):
                (queue.append if each[0] else queue.appendleft)(each)
    owners = [module for name, module in found if not name]
    others = [(name, module) for name, module in found if name and id(module) not in parts]
    return _Found(owners, others, list(seen.values()))


def _is_left_out(thing: Any) -> bool:
    """Whether nothing is in an object, such as the hooks of most modules, or it is not looked into."""
    kind: Any = type(thing)
    return (kind in _CONTAINERS and not thing) or _is_plain(kind)


@functools.lru_cache(1000)
def _is_plain(kind: type) -> bool:
    # A dead proxy allows no other question than that for its type.
    return kind in weakref.ProxyTypes or issubclass(kind, WITHOUT_MODULES)


def held(name: str, thing: Any) -> Iterator[Named]:
    """Return the objects that an object holds."""
    if isinstance(thing, types.MethodType):
        yield from ((name, thing.__self__), (name, thing.__func__))
    elif isinstance(thing, functools.partial):
        # A handler of Pyro has the program as an argument.
        of_pyro = _is_library(getattr(thing.func, "__module__", None))
        yield name, thing.func
        yield from ((name if of_pyro else joined(name, f"args.{i}"), a) for i, a in enumerate(thing.args))
        yield from ((joined(name, key), value) for key, value in thing.keywords.items())
    elif isinstance(thing, type):
        own = (cls for cls in thing.__mro__ if not _is_library(cls.__module__))
        yield from (pair for cls in own for pair in vars(cls).items())
    elif isinstance(thing, types.FunctionType):
        yield from _variables(thing)
        for key, value in vars(thing).items():
            yield name if key == "__wrapped__" else joined(name, key), value
    elif isinstance(thing, weakref.ref):
        yield name, thing()
    elif isinstance(thing, staticmethod | classmethod):
        yield name, thing.__func__
    elif isinstance(thing, property):
        yield name, thing.fget
    else:
        yield from _items(name, thing)
        yield from _attributes(name, thing)
        if not _is_library(type(thing).__module__):
            yield "class", type(thing)


def _items(name: str, thing: Any) -> Iterator[Named]:
    if isinstance(thing, dict):
        pairs: Iterable[tuple[Any, Any]] = thing.items()
    elif isinstance(thing, list | tuple | set | frozenset | deque):
        pairs = enumerate(thing)
    else:
        return
    for key, value in itertools.islice(pairs, MOST_OBJECTS):
        yield joined(name, key), value


def _attributes(name: str, thing: Any) -> Iterator[Named]:
    inside = getattr(thing, "__dict__", None)
    if isinstance(inside, dict):
        of_module = _OF_EVERY_MODULE if isinstance(thing, nn.Module) else ()
        yield from ((joined(name, key), value) for key, value in inside.items() if key not in of_module)
    cls: Any = type(thing)
    for key, slot in _slots(cls):
        with contextlib.suppress(AttributeError):  # an empty slot
            yield joined(name, key), slot.__get__(thing)


@functools.lru_cache(1000)
def _slots(cls: type) -> list[tuple[str, Any]]:
    found = [item for each in cls.__mro__ if "__slots__" in vars(each) for item in vars(each).items()]
    return [(key, slot) for key, slot in found if isinstance(slot, types.MemberDescriptorType)]


def _variables(function: types.FunctionType) -> Iterator[Named]:
    """Return what a function's variables hold: its closure, its defaults and the globals that it names."""
    code = function.__code__
    for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # an empty cell
            yield variable, cell.cell_contents
    defaults = function.__defaults__ or ()
    positional = code.co_varnames[: code.co_argcount]
    yield from zip(positional[len(positional) - len(defaults) :], defaults, strict=True)
    yield from (function.__kwdefaults__ or {}).items()
    if not _is_library(function.__globals__.get("__name__")):
        for path in _global_names(code):
            yield _resolved(path, function.__globals__)


def _global_names(code: types.CodeType) -> tuple[tuple[str, ...], ...]:
    """Return the globals that code names, with the attributes that follow: ("nets", "decoder")."""
    if code not in _names_of_code:
        paths: list[tuple[str, ...]] = []
        follows = False
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                paths.append((instruction.argval,))
            elif follows and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                paths[-1] += (instruction.argval,)
            else:
                follows = False
                continue
            follows = True
        inner = [_global_names(const) for const in code.co_consts if isinstance(const, types.CodeType)]
        _names_of_code[code] = tuple(dict.fromkeys(itertools.chain(paths, *inner)))
    return _names_of_code[code]


def _resolved(path: tuple[str, ...], names: Mapping[str, Any]) -> Named:
    """Return the object at a path of names, or the last one before an attribute that no object holds."""
    name, *attributes = path
    value = names.get(name)
    for attribute in attributes:
        if isinstance(value, types.ModuleType) and _is_library(value.__name__):
            return name, None
        inside = {} if isinstance(value, nn.Module | type) else getattr(value, "__dict__", {})
        if attribute not in inside:
            break
        name, value = joined(name, attribute), inside[attribute]
    return name, value


def joined(name: str, part: object) -> str:
    """Return the name of a part of an object of this name."""
    return f"{name}.{part}" if name else str(part)


def _is_library(module: str | None) -> bool:
    """Whether a Python module belongs to an installed package, whose code names no module of a user."""
    return module is not None and _is_installed(module.partition(".")[0])


@functools.cache
def _is_installed(package: str) -> bool:
    if package == "__main__":  # in a notebook its file is a package's
        return False
    if package in sys.stdlib_module_names or package == "pyrovae":
        return True
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file
