"""The modules and parameters behind a pair."""

from __future__ import annotations

import functools
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

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

    `pyro.infer.SVI` optimises what the program shows to Pyro's parameter store, so while SVI listens
    the module's parameters are registered there, under a name that no other module shares. (With one
    fixed name, a second model in the same process would silently not train.) At all other times the
    parameter store is left alone, and the parameters belong to the module.
    """

    @functools.wraps(method)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if any(getattr(handler, "param_only", False) for handler in _PYRO_STACK):
            with warnings.catch_warnings():
                # Frozen parameters are left out, as they should be: no cause for a warning.
                warnings.filterwarnings("ignore", message=".* was not registered in the param store")
                pyro.module(_unique_name(self), self)
        return method(self, *args, **kwargs)

    return run  # type: ignore[return-value]


def _unique_name(module: nn.Module) -> str:
    if module not in _names:
        _names[module] = f"{type(module).__name__}-{next(_counter)}"
    return _names[module]


@contextmanager
def own_parameters(hand_back: bool = True) -> Iterator[None]:
    """Run Pyro programs with a parameter store of their own.

    What the caller's store holds from `pyro.param` is visible inside, and what the block makes of it
    is handed back at its end, also after an error, unless `hand_back` is false. What `pyro.module`
    registers is neither: those tensors belong to their modules, and two modules of one name must not be
    taken for one another.
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
    """The modules whose methods (or whose own calls) the programs are, each once."""
    single = [p for each in programs for p in ((each.model, each.guide) if is_pair(each) else (each,))]
    owners = [p if isinstance(p, nn.Module) else getattr(p, "__self__", None) for p in single]
    return list(dict.fromkeys(owner for owner in owners if isinstance(owner, nn.Module)))


def named_parameters(pair: ModelAndGuide, *args: Any) -> dict[str, Tensor]:
    """Every parameter of the pair, by name: leaf tensors that an optimiser may change.

    They are the parameters of the modules behind the programs, and those that a run of the programs
    shows to Pyro by `pyro.param` and `pyro.module` (in unconstrained space). Call it, and use what it
    returns, under `own_parameters`.
    """
    modules = modules_of(pair)
    named: dict[str, Tensor] = {}
    for number, module in enumerate(modules):
        prefix = f"{number}." if len(modules) > 1 else ""
        others = {id(value) for value in named.values()}  # of which one module may be a part of another
        named |= {prefix + name: v for name, v in module.named_parameters() if id(v) not in others}
    with poutine.trace(param_only=True) as shown, poutine.block(hide_fn=_is_sample):
        pair.guide(*args)
        pair.model(*args)
    known = {id(value) for value in named.values()}
    for name, site in shown.trace.nodes.items():
        value = site["value"].unconstrained()
        if id(value) not in known:
            named[name] = value
    return named


def replaced_parameters(pair: ModelAndGuide) -> set[int]:
    """The ids of the parameters that may have lost their program: those of a model/guide pair of which one
    is used beside a program from elsewhere, as when a guide of one's own takes the place of a VAE's."""
    owners = modules_of(pair)
    if modules_of(pair.model) == modules_of(pair.guide):
        return set()
    pairs = (owner for owner in owners if hasattr(owner, "model") and hasattr(owner, "guide"))
    return {id(value) for pair in pairs for value in pair.parameters()}


def _is_sample(message: Mapping[str, Any]) -> bool:
    return message["type"] == "sample"
