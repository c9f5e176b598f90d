"""Programs run for their plate diagram: what each site was computed from.

Every tensor remembers which sites and arguments it was computed from (`pyro.ops.provenance`), whatever
network stands in between. Provenance ends at a sample site: edges are direct dependence.

Pyro's `get_model_relations` works the same way. It is not called, because it knows no arguments (so
no q(z | x)), hands tracked copies of the parameters to `pyro.module`, and scores a copy of each
draw, which flows without a closed-form inverse refuse.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.infer.inspect import site_is_deterministic
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import Program
from pyrovae.programs.parameters import own_parameters


@dataclass(frozen=True)
class Argument:
    """Provenance of an argument: never equal to a site's name."""

    name: str


class Site(NamedTuple):
    observed: bool
    distribution: str
    parents: frozenset[Any]  # names of sites, and arguments
    computed_from: frozenset[Any]  # the same, of the observed value
    frames: tuple[Any, ...]  # plates, outermost first
    value: Tensor
    factor: bool


class _Recorder(Messenger):
    """Notes each sample site with what its distribution was computed from."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, Site] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) or site_is_deterministic(msg):
            return
        observed, value = msg["is_observed"], msg["value"]
        source = get_provenance(value)
        # A latent is scored as drawn: a copy would miss the cache of flows that cannot be inverted.
        parents = get_provenance(msg["fn"].log_prob(detach_provenance(value) if observed else value))
        parents |= {part for part in source if not (observed and isinstance(part, Argument))}
        self.sites[msg["name"]] = Site(
            observed,
            type(_base(msg["fn"])).__name__,
            parents,
            source if observed else frozenset(),
            msg["cond_indep_stack"],
            detach_provenance(value),
            isinstance(_base(msg["fn"]), Unit),  # which is what `pyro.factor` samples
        )
        msg["value"] = track_provenance(detach_provenance(value), frozenset({msg["name"]}))


def _base(distribution: Any) -> Any:
    wrappers = ("Independent", "ExpandedDistribution", "MaskedDistribution")
    while type(distribution).__name__ in wrappers:
        distribution = distribution.base_dist
    return distribution


def run_recorded(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Site]:
    with poutine.block(), _Recorder() as recorder:
        program(*args, **kwargs)
    sites: dict[str, Site] = recorder.sites
    return sites


@contextmanager
def nothing_moves(*programs: Program) -> Iterator[None]:
    started = torch.cuda.is_initialized()
    devices = range(torch.cuda.device_count()) if started else ()
    with (
        evaluating(*programs),
        _evaluating_when_called(),
        torch.random.fork_rng(devices),
        torch.no_grad(),
        pyro.validation_enabled(False),
        own_parameters(hand_back=False),
    ):
        yield


@contextmanager
def _evaluating_when_called() -> Iterator[None]:
    """Evaluation mode for whichever modules a plain function calls: they cannot be known before."""
    was_training: list[nn.Module] = []

    def switch(module: nn.Module, _: Any) -> None:
        if module.training:
            was_training.append(module)
            module.training = False

    hook = register_module_forward_pre_hook(switch)
    try:
        yield
    finally:
        hook.remove()
        for module in was_training:
            module.training = True


def positional_names(program: Program, count: int) -> list[str]:
    called = program.forward if isinstance(program, nn.Module) else program
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):  # a builtin, or a callable that shows no signature
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind in kinds][:count]


def track(value: Any, name: str, given: dict[Argument, Tensor]) -> Any:
    """The value with every tensor in it tracked; notes them in `given`."""
    if isinstance(value, Tensor):
        argument = Argument(name)
        given[argument] = value
        return track_provenance(value, frozenset({argument}))
    if type(value) is dict:
        return {key: track(part, f"{name}[{key}]", given) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(track(p, f"{name}[{i}]", given) for i, p in enumerate(value))
    return value
