"""The parameters of a pair, and Pyro's parameter store while its programs run."""

from __future__ import annotations

import functools
import itertools
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn

from pyrovae.compute.turns import alone, kept
from pyrovae.errors import InputError
from pyrovae.programs.pair import ModelAndGuide, Program
from pyrovae.programs.reach import modules_of, named_modules, owners_of, prefix_of, unused_name

F = TypeVar("F", bound=Callable[..., Any])

_names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
_counter = itertools.count()


def program(method: F) -> F:
    """Mark a method of an `nn.Module` as a Pyro program.

    `pyro.infer.SVI` optimises the parameters that a program shows to Pyro's parameter store. So, while SVI
    listens, the module's parameters are registered there, under a name that no other module shares. (With
    one fixed name, a second model in the same process would silently not train.) At all other times the
    parameters belong to the module only.

    Tensors that the program is called with are moved to the module's device.
    """

    @functools.wraps(method)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if any(getattr(handler, "param_only", False) for handler in _PYRO_STACK):
            with warnings.catch_warnings():
                # Frozen parameters are not registered, which is intended and needs no warning.
                warnings.filterwarnings("ignore", message=".* was not registered in the param store")
                pyro.module(_unique_name(self), self)
        args, kwargs = _beside(self, args, kwargs)
        return method(self, *args, **kwargs)

    return cast(F, run)


def _beside(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments whose tensors are on a module's device. Tensors that are there stay the same."""
    first = next(itertools.chain(module.parameters(), module.buffers()), None)
    elsewhere = [
        value
        for value in (*args, *kwargs.values())
        if isinstance(value, Tensor) and first is not None and value.device != first.device
    ]
    if first is None or not elsewhere:
        return args, kwargs

    def moved(value: Any) -> Any:
        return value.to(first.device) if isinstance(value, Tensor) else value

    return tuple(map(moved, args)), {name: moved(value) for name, value in kwargs.items()}


def _unique_name(module: nn.Module) -> str:
    if module not in _names:
        _names[module] = f"{type(module).__name__}-{next(_counter)}"
    return _names[module]


@contextmanager
def own_parameters(*programs: Program | ModelAndGuide, hand_back: bool = True) -> Iterator[None]:
    """Run Pyro programs with a parameter store of their own.

    The values of `pyro.param` in the caller's store are visible inside. At the end of the block, also
    after an error, its values are written back. The parameters of modules, which `pyro.module` and
    `PyroModule` keep in the store as well, are neither visible nor written back: they belong to their
    modules, and two modules of one name must not be confused.

    Args:
        programs: the programs that run inside.
        hand_back: write the values of `pyro.param` back to the caller's store.

    Raises:
        InputError: Pyro would give a `PyroModule` of the programs the parameter of another one of the same
            name, or the store's parameter of this name.
    """
    with store_beside(modules_of(*programs), hand_back):
        yield


@contextmanager
def store_beside(modules: Sequence[nn.Module], hand_back: bool = True) -> Iterator[None]:
    """Run programs that reach these modules as `own_parameters` does."""
    store = pyro.get_param_store()

    def put(state: Any) -> None:
        store.clear()
        store.set_state(state)

    inside = None
    with alone():
        try:
            with kept(store.get_state, put):
                before = store.get_state()
                _check_pyro_modules(before["params"], modules)
                put(_without_those_of(modules, before))
                try:
                    yield
                finally:
                    inside = store.get_state()
        finally:
            if hand_back and inside is not None:
                store.set_state(_without_those_of(modules, inside))


def _without_those_of(modules: Sequence[nn.Module], state: Any) -> Any:
    """Return a state of the store without the entries that are parameters of modules."""
    if not state["params"]:
        return state
    inside = {id(value) for module in modules for value in module.parameters()}
    hidden = {name for name, value in state["params"].items() if "$$$" in name or id(value) in inside}
    return {
        part: {name: value for name, value in values.items() if name not in hidden}
        for part, values in state.items()
    }


def _check_pyro_modules(entries: Mapping[str, Tensor], modules: Sequence[nn.Module]) -> None:
    """Refuse a `PyroModule` that would take over the parameter of another one when it is read."""
    if pyro.settings.get("module_local_params"):
        return
    parts = (part for module in modules for part in module.modules())
    of_pyro: list[Any] = [part for part in parts if isinstance(part, PyroModule)]
    own: dict[str, Tensor] = {}
    for part in of_pyro:
        for key in part._pyro_params:
            name = f"{part._pyro_name}.{key}" if part._pyro_name else key
            value = part._parameters[f"{key}_unconstrained"]
            if own.setdefault(name, value) is not value:
                raise InputError(
                    f"two PyroModules of the pair have a PyroParam '{name}', and Pyro keeps one parameter "
                    'for both: give one of them a name of its own, with PyroModule(name="guide") or '
                    'super().__init__(name="guide").'
                )
            if name in entries and not torch.equal(entries[name].detach().cpu(), value.detach().cpu()):
                raise InputError(_of_another(name, part))
        empty = bool(part._pyro_name) and not any(True for _ in part.parameters())  # as an autoguide begins
        for name in entries if empty else ():
            if name.startswith(f"{part._pyro_name}."):
                raise InputError(_of_another(name, part))


def _of_another(name: str, module: nn.Module) -> str:
    return (
        f"Pyro's parameter store has a parameter '{name}' that is not the one of this "
        f"{type(module).__name__}. If it belongs to another module of the same name, call "
        "pyro.clear_param_store() first. If it was loaded for this module, call the module once with the "
        "data first."
    )


def module_parameters(pair: ModelAndGuide) -> dict[str, Tensor]:
    """Return the parameters of the modules that the pair reaches, by name.

    The names are the module's own if one module owns the pair. Otherwise the module's name in
    `named_modules` comes first.
    """
    modules = named_modules(pair)
    named: dict[str, Tensor] = {}
    known: set[int] = set()  # one module may be a part of another
    for name, module in modules.items():
        for path, value in module.named_parameters():
            if id(value) not in known:
                named[unused_name(prefix_of(name, modules) + path, named)] = value
                known.add(id(value))
    return named


def named_parameters(pair: ModelAndGuide, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    """Return every parameter of the pair by name: the leaf tensors that an optimiser may change.

    They are the parameters of the modules that the pair reaches, and those that a run of the programs shows
    to Pyro by `pyro.param` and `pyro.module`, in unconstrained space. Call this function, and use its
    result, under `own_parameters`.
    """
    named = module_parameters(pair)
    with poutine.trace(param_only=True) as shown, poutine.block(hide_fn=_is_sample):
        pair.guide(*args, **kwargs)
        pair.model(*args, **kwargs)
    known = {id(value) for value in named.values()}
    for name, site in shown.trace.nodes.items():
        if (value := shown_parameter(site, known)) is not None:
            named[unused_name(name, named)] = value
    return named


def shown_parameter(message: Mapping[str, Any], known: Collection[int]) -> Tensor | None:
    """Return the parameter of a message of `pyro.param`, in unconstrained space, unless it is known.

    Args:
        message: the message, after the parameter was made.
        known: the ids of known parameters, those of modules for example.
    """
    initial = message["args"][1] if len(message["args"]) > 1 else None
    if id(initial) in known:  # the store holds a copy of a module's parameter that is not contiguous
        return None
    store = dict(pyro.get_param_store().named_parameters())
    value = store.get(message["name"])  # not there if the setting module_local_params is on
    return None if value is None or id(value) in known else value


def optional_parameters(pair: ModelAndGuide) -> set[int]:
    """Return the ids of the parameters that the pair's programs need not use.

    The search may find modules that are within reach by chance. Their parameters are optional, unless the
    programs have shown them to Pyro.

    A pair may also join one program of a library model with another program, for example a VAE's model with
    the user's own guide. Then all parameters of the library model are optional, since those of the replaced
    program are not used.
    """
    owners = owners_of(pair)
    shown = {id(value) for _, value in pyro.get_param_store().named_parameters()}
    found = {id(value) for module in modules_of(pair) for value in module.parameters()}
    optional = found - shown - {id(value) for owner in owners for value in owner.parameters()}
    if owners_of(pair.model) != owners_of(pair.guide):
        pairs = (owner for owner in owners if hasattr(owner, "model") and hasattr(owner, "guide"))
        optional |= {id(value) for each in pairs for value in each.parameters()}
    return optional


class SameShapes(Messenger):
    """Refuses a parameter in Pyro's store that a program asks for in another shape."""

    def _pyro_post_param(self, msg: Any) -> None:
        initial = msg["args"][1] if len(msg["args"]) > 1 else None
        if not isinstance(initial, Tensor) or (name := msg["name"]) not in pyro.get_param_store():
            return
        if (stored := pyro.get_param_store()[name].shape) != initial.shape:
            raise InputError(
                f"the parameter '{name}' has shape {tuple(stored)} in Pyro's store, but the program gives "
                f"it shape {tuple(initial.shape)}. If another program left it there, call "
                "pyro.clear_param_store() first, or rename one of the two. If there is one value for each "
                "datum, all data must be given at once, as at the first time."
            )


def _is_sample(message: Mapping[str, Any]) -> bool:
    return message["type"] == "sample"
