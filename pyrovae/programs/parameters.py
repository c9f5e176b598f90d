"""The modules and parameters behind a pair."""

from __future__ import annotations

import functools
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import pyro
from pyro import poutine
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn

from pyrovae.programs.pair import ModelAndGuide, Program, is_pair

F = TypeVar("F", bound=Callable[..., Any])

_names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
_counter = itertools.count()


def program(method: F) -> F:
    """Mark a method of an `nn.Module` as a Pyro program.

    `pyro.infer.SVI` optimises the parameters that a program shows to Pyro's parameter store. So, while SVI
    listens, the module's parameters are registered there, under a name that no other module shares. (With
    one fixed name, a second model in the same process would silently not train.) At all other times the
    parameters belong to the module only.
    """

    @functools.wraps(method)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if any(getattr(handler, "param_only", False) for handler in _PYRO_STACK):
            with warnings.catch_warnings():
                # Frozen parameters are not registered, which is intended and needs no warning.
                warnings.filterwarnings("ignore", message=".* was not registered in the param store")
                pyro.module(_unique_name(self), self)
        return method(self, *args, **kwargs)

    return cast(F, run)


def _unique_name(module: nn.Module) -> str:
    if module not in _names:
        _names[module] = f"{type(module).__name__}-{next(_counter)}"
    return _names[module]


@contextmanager
def own_parameters(hand_back: bool = True) -> Iterator[None]:
    """Run Pyro programs with a parameter store of their own.

    The values of `pyro.param` in the caller's store are visible inside. At the end of the block, also
    after an error, its values are written back. The tensors of `pyro.module` are neither visible nor
    written back: they belong to their modules, and two modules of one name must not be confused.

    Args:
        hand_back: write the values of `pyro.param` back to the caller's store.
    """
    store = pyro.get_param_store()
    before = store.get_state()
    store.clear()
    store.set_state(_without_modules(before))
    try:
        yield
    finally:
        inside = store.get_state()
        store.clear()
        store.set_state(before)
        if hand_back:
            store.set_state(_without_modules(inside))


def _without_modules(state: Any) -> Any:
    return {
        part: {name: value for name, value in values.items() if "$$$" not in name}
        for part, values in state.items()
    }


def modules_of(*programs: Program | ModelAndGuide) -> list[nn.Module]:
    """Return the modules behind the programs, each once. A program is a module, or a method of one."""
    single = [p for each in programs for p in ((each.model, each.guide) if is_pair(each) else (each,))]
    owners = [p if isinstance(p, nn.Module) else getattr(p, "__self__", None) for p in single]
    return list(dict.fromkeys(owner for owner in owners if isinstance(owner, nn.Module)))


def module_parameters(pair: ModelAndGuide) -> dict[str, Tensor]:
    """Return the parameters of the modules behind the programs, by name."""
    modules = modules_of(pair)
    named: dict[str, Tensor] = {}
    for number, module in enumerate(modules):
        prefix = f"{number}." if len(modules) > 1 else ""
        others = {id(value) for value in named.values()}  # one module may be a part of another
        named |= {prefix + name: v for name, v in module.named_parameters() if id(v) not in others}
    return named


def named_parameters(pair: ModelAndGuide, *args: Any) -> dict[str, Tensor]:
    """Return every parameter of the pair by name: the leaf tensors that an optimiser may change.

    They are the parameters of the modules behind the programs, and those that a run of the programs shows
    to Pyro by `pyro.param` and `pyro.module`, in unconstrained space. Call this function, and use its
    result, under `own_parameters`.
    """
    named = module_parameters(pair)
    with poutine.trace(param_only=True) as shown, poutine.block(hide_fn=_is_sample):
        pair.guide(*args)
        pair.model(*args)
    known = {id(value) for value in named.values()}
    for name in shown.trace.nodes:
        value = unconstrained(name)
        if id(value) not in known:
            named[name] = value
    return named


def unconstrained(name: str) -> Tensor:
    """Return a parameter in Pyro's store, in unconstrained space: the tensor that an optimiser changes."""
    return dict(pyro.get_param_store().named_parameters())[name]


def replaced_parameters(pair: ModelAndGuide) -> set[int]:
    """Return the ids of the parameters that the pair may no longer use.

    A pair may join one program of a library model with another program, for example a VAE's model with the
    user's own guide. Then the parameters of the replaced program are not used. The result contains all
    parameters of such a library model.
    """
    owners = modules_of(pair)
    if modules_of(pair.model) == modules_of(pair.guide):
        return set()
    pairs = (owner for owner in owners if hasattr(owner, "model") and hasattr(owner, "guide"))
    return {id(value) for pair in pairs for value in pair.parameters()}


def _is_sample(message: Mapping[str, Any]) -> bool:
    return message["type"] == "sample"
