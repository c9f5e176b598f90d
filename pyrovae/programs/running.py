"""How the library runs a model/guide pair: whose parameters, under which particles, with which traces.

Nothing here knows a particular model. `training`, `evaluation` and `plates` are built on it.
"""

from __future__ import annotations

import functools
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import pyro
import torch
from pyro import poutine
from pyro.distributions import Categorical
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from pyrovae.errors import InputError
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


@contextmanager
def evaluating(*programs: Program | ModelAndGuide) -> Iterator[None]:
    """Run the programs' modules in evaluation mode, and put every submodule back as it was."""
    with _in_mode(False, *programs):
        yield


@contextmanager
def in_training(*programs: Program | ModelAndGuide) -> Iterator[None]:
    """Run the programs' modules in training mode, and put every submodule back as it was."""
    with _in_mode(True, *programs):
        yield


@contextmanager
def _in_mode(mode: bool, *programs: Program | ModelAndGuide) -> Iterator[None]:
    parts = [part for module in modules_of(*programs) for part in module.modules()]
    modes = [part.training for part in parts]
    try:
        for part in parts:
            part.training = mode
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


@contextmanager
def buffers_kept(*programs: Program | ModelAndGuide) -> Iterator[None]:
    """Put back what the programs' modules note as they run, such as the means of batch normalisation."""
    buffers = [buffer for module in modules_of(*programs) for buffer in module.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Draw from a stream that starts at `seed`, and leave the caller's stream where it was."""
    device = torch.device(device)
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield


def device_of(*programs: Program | ModelAndGuide, otherwise: torch.device | str = "cpu") -> torch.device:
    """Where the programs' modules have their parameters; `otherwise` for plain functions."""
    for module in modules_of(*programs):
        for tensor in itertools.chain(module.parameters(), module.buffers()):
            return tensor.device
    return torch.device(otherwise)


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that a name stands for; "auto" is CUDA where there is one, else the CPU.

    Raises:
        InputError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device '{device}' cannot be used: {reason} Use 'auto' or 'cpu'.") from error
    return resolved


def device_for(
    device: str | torch.device, *programs: Program | ModelAndGuide, otherwise: torch.device | str
) -> torch.device:
    """Where programs are to be trained; plain functions cannot be moved: "auto" is `otherwise`."""
    if device == "auto" and not modules_of(*programs):
        return torch.device(otherwise)
    return resolve_device(device)


def run_pair(pair: ModelAndGuide, *args: Any) -> tuple[Trace, Trace]:
    """Trace the guide, then the model replayed on the guide's draws.

    Returns:
        The model's trace and the guide's, without the sites of `pyro.plate` itself.

    Raises:
        InputError: the model has a latent site that the guide lacks, or the other way round.
    """
    guide_trace = poutine.trace(pair.guide).get_trace(*args)
    model_trace = poutine.trace(poutine.replay(pair.model, trace=guide_trace)).get_trace(*args)
    guide_trace = poutine.util.prune_subsample_sites(guide_trace)
    model_trace = poutine.util.prune_subsample_sites(model_trace)
    _check_same_latents(set(latent_sites(model_trace)), set(latent_sites(guide_trace)))
    return model_trace, guide_trace


class _AtMeans(Messenger):
    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["value"] is not None or poutine.util.site_is_subsample(msg):
            return
        if isinstance(fn := msg["fn"], Categorical):
            msg["value"] = fn.probs.argmax(-1)  # which has no mean
        elif _has_mean(fn):
            msg["value"] = fn.mean


def _has_mean(distribution: Any) -> bool:
    try:
        return bool(distribution.mean.isfinite().all())
    except (NotImplementedError, AttributeError):
        return False


def at_means(program: Program) -> Program:
    """The program with each latent at its mean, a class at its mode; drawn if there is neither."""
    handled: Program = _AtMeans()(program)
    return handled


def latent_sites(trace: Trace) -> list[str]:
    return list(trace.stochastic_nodes)


def observed_sites(trace: Trace) -> list[str]:
    return [name for name in trace.observation_nodes if not _is_deterministic(trace.nodes[name])]


def _is_deterministic(site: Mapping[str, Any]) -> bool:
    return bool(site["infer"].get("_deterministic", False))


def _check_same_latents(in_model: set[str], in_guide: set[str]) -> None:
    if missing := sorted(in_model - in_guide):
        raise InputError(
            f"the guide has no site for the model's latent {_names_of(missing)} (it has "
            f"{_names_of(sorted(in_guide)) or 'none'}): sample every latent of the model in the guide, "
            "under the same name."
        )
    if surplus := sorted(in_guide - in_model):
        raise InputError(
            f"the guide samples {_names_of(surplus)}, which the model does not have among its latents "
            f"({_names_of(sorted(in_model)) or 'none'}): rename the site, or add it to the model."
        )


def _names_of(sites: list[str]) -> str:
    return ", ".join(repr(site) for site in sites)
