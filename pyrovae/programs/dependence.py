"""The sites and arguments that each site of a program depends on.

Every tensor remembers which sites and arguments it was computed from (`pyro.ops.provenance`), whatever
network stands in between. Provenance ends at a sample site, so only direct dependence is found.

Pyro's `get_model_relations` works the same way. It is not used here, for three reasons. It does not know
arguments, and so no q(z | x). It passes tracked copies of the parameters to `pyro.module`. It scores a copy
of each draw, which a flow without a closed-form inverse refuses.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.infer.inspect import site_is_deterministic
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pyrovae.programs.distributions import base_of, name_of
from pyrovae.programs.modes import nothing_moves
from pyrovae.programs.pair import Program

Edge = tuple[str, str]


@dataclass(frozen=True)
class Argument:
    """The provenance of an argument. It never equals the name of a site."""

    name: str


class RecordedSite(NamedTuple):
    """A sample site in a recorded run.

    Attributes:
        observed: whether its value was given.
        distribution: the class name of its distribution.
        parents: the names of the sites, and the arguments, from which its distribution was computed.
        computed_from: the sites and arguments that its observed value was computed from; empty for a
            latent.
        frames: Pyro's frames of its plates, outermost first.
        value: the value.
        factor: whether it is a `pyro.factor`.
    """

    observed: bool
    distribution: str
    parents: frozenset[Any]
    computed_from: frozenset[Any]
    frames: tuple[Any, ...]
    value: Tensor
    factor: bool


Run = dict[str, RecordedSite]
"""The sample sites of one recorded run of a program, by name and in order."""


class _Recorder(Messenger):
    """Records each sample site, and the sites and arguments that its distribution was computed from."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: Run = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) or site_is_deterministic(msg):
            return
        observed, value = msg["is_observed"], msg["value"]
        source = get_provenance(value)
        # A latent is scored as it was drawn: a copy would miss the cache of flows that cannot be inverted.
        parents = get_provenance(msg["fn"].log_prob(detach_provenance(value) if observed else value))
        parents |= {part for part in source if not (observed and isinstance(part, Argument))}
        self.sites[msg["name"]] = RecordedSite(
            observed,
            name_of(msg["fn"]),
            parents,
            source if observed else frozenset(),
            msg["cond_indep_stack"],
            detach_provenance(value),
            isinstance(base_of(msg["fn"]), Unit),
        )
        msg["value"] = track_provenance(detach_provenance(value), frozenset({msg["name"]}))


class _NewBySize(TorchFunctionMode):
    """Let `tensor.new(size)` make a tensor of that size for tracked tensors too.

    Pyro's tracking hands the size on as a tuple, which `new` takes for values. Laplace, Cauchy and
    HalfCauchy draw in this way.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is Tensor.new and len(args) == 2 and isinstance(args[1], torch.Size):
            return detach_provenance(args[0]).new_empty(args[1])
        return function(*args, **(kwargs or {}))


def record(
    programs: tuple[Program, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[list[Run], dict[Argument, Tensor]]:
    """Run each of the programs once and record what each site depends on.

    The runs have no side effects: modes, parameters, buffers and the random stream stay as they are.

    Returns:
        The recorded run of each program, and the tensors among the arguments.
    """
    names = max((positional_names(program, len(args)) for program in programs), key=len)
    names += [f"argument {number}" for number in range(len(names) + 1, len(args) + 1)]
    given: dict[Argument, Tensor] = {}
    args = tuple(track(value, name, given) for name, value in zip(names, args, strict=True))
    kwargs = {name: track(value, name, given) for name, value in kwargs.items()}
    with nothing_moves(*programs):
        return [run_recorded(program, args, kwargs) for program in programs], given


def run_recorded(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run:
    """Run a program on tracked arguments and record its sample sites."""
    with poutine.block(), _NewBySize(), _Recorder() as recorder:
        program(*args, **kwargs)
    sites: Run = recorder.sites
    return sites


def observed_arguments(model: Run) -> dict[Argument, list[str]]:
    """Return the arguments that the model observes, each with the names of the sites that observe it."""
    stands_for: dict[Argument, list[str]] = {}
    for name, site in model.items():
        arguments = [part for part in site.computed_from if isinstance(part, Argument)]
        # If the value comes from several arguments, such as data and a mask, the one with its name counts.
        for argument in [part for part in arguments if part.name == name] or arguments:
            stands_for.setdefault(argument, []).append(name)
    return stands_for


def edges_of(run: Run, stands_for: Mapping[Argument, list[str]]) -> frozenset[Edge]:
    """Return the pairs (parent, child) of direct dependence in a run.

    Args:
        run: a recorded run.
        stands_for: the names that each argument has as a parent. An argument without a name is left out.
    """
    return frozenset(
        (end, name)
        for name, site in run.items()
        for parent in site.parents
        for end in ([parent] if isinstance(parent, str) else stands_for.get(parent, ()))
        if end != name
    )


def positional_names(program: Program, count: int) -> list[str]:
    """Return the names of a program's first `count` positional parameters, or of those that it shows."""
    called = program.forward if isinstance(program, nn.Module) else program
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):  # a builtin, or a callable that shows no signature
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind in kinds][:count]


def track(value: Any, name: str, given: dict[Argument, Tensor]) -> Any:
    """Track every tensor in an argument, also within tuples, lists and dictionaries.

    Args:
        value: the argument.
        name: its name.
        given: receives each tensor that was found, under its name.
    """
    if isinstance(value, Tensor):
        argument = Argument(name)
        given[argument] = value
        return track_provenance(value, frozenset({argument}))
    if type(value) is dict:
        return {key: track(part, f"{name}[{key}]", given) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(track(p, f"{name}[{i}]", given) for i, p in enumerate(value))
    return value
