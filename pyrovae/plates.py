"""The plate diagram of a model and its guide, read off the running programs.

Both programs are run once. Every tensor remembers which sites and arguments it was computed from
(`pyro.ops.provenance`), so an edge is there because the program computed with it, whatever network
stands in between. Provenance ends at a sample site: edges are direct dependence.

Pyro's `get_model_relations` works the same way. It is not called, because it knows no arguments (so
no q(z | x)), hands tracked copies of the parameters to `pyro.module`, and scores a copy of each
draw, which flows without a closed-form inverse refuse.
"""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer.inspect import site_is_deterministic
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyrovae.checkpoints import write_atomically
from pyrovae.errors import InputError
from pyrovae.plate_drawing import draw
from pyrovae.plate_text import dot_lines, tikz_lines
from pyrovae.programs import Program, evaluating, own_parameters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Edge = tuple[str, str]

FORMATS = (".png", ".svg", ".pdf", ".dot", ".tex")


@dataclass(frozen=True)
class Node:
    """A random variable, or an argument that a program conditions on.

    `plates` are outermost first. `origin` is where the node was found: a site of the model, a site
    that only the guide has, or an argument that is no site of the model's.
    """

    name: str
    status: Literal["latent", "observed", "partly"]
    distribution: str
    plates: tuple[str, ...] = ()
    origin: Literal["model", "guide", "argument"] = "model"

    @property
    def observed(self) -> bool:
        """Whether the value is given for every datum."""
        return self.status == "observed"


@dataclass(frozen=True)
class PlateDiagram:
    """Nodes, plates (name to size) and edges (parent, child) of a model and perhaps its guide."""

    nodes: dict[str, Node]
    plates: dict[str, int]
    generative_edges: frozenset[Edge]
    inference_edges: frozenset[Edge]
    has_guide: bool = False

    def members(self, plate: str) -> tuple[str, ...]:
        """The names of the nodes inside a plate, those in plates nested in it included."""
        return tuple(node.name for node in self.nodes.values() if plate in node.plates)

    def draw(self, ax: Axes | None = None) -> Figure:
        """Draw into `ax`, or into a figure of its own; returns the figure. No pyplot."""
        return draw(self, ax)

    def to_dot(self) -> str:
        """The diagram as a Graphviz graph: plates are clusters, inference edges are dashed."""
        return "digraph plates {\n  node [shape=circle];\n" + "\n".join(dot_lines(self)) + "\n}\n"

    def to_tikz(self) -> str:
        """The diagram as a LaTeX document of its own (class `standalone`, plain TikZ)."""
        return "\n".join(tikz_lines(self)) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the diagram in the format that the file's suffix names, whole or not at all.

        Raises:
            InputError: the suffix is none of `FORMATS`, or the folder does not exist.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in FORMATS:
            raise InputError(f"cannot write a diagram as {suffix!r}: use one of {', '.join(FORMATS)}.")
        if not path.parent.is_dir():
            raise InputError(f"the folder {str(path.parent)!r} does not exist: create it first.")
        buffer = io.BytesIO()
        if suffix in (".dot", ".tex"):
            buffer.write((self.to_dot() if suffix == ".dot" else self.to_tikz()).encode())
        else:
            self.draw().savefig(buffer, format=suffix[1:], dpi=200)
        write_atomically(path, buffer.getvalue())

    def __str__(self) -> str:
        lines = [
            f"plate {name} (N = {size}): {', '.join(self.members(name))}"
            for name, size in self.plates.items()
        ]
        for node in self.nodes.values():
            drawn = f" ~ {node.distribution}" if node.distribution else ""
            note = {"guide": " (guide only)", "argument": " (argument)"}.get(node.origin, "")
            lines.append(f"{node.status} {node.name}{drawn}{note}")
        lines += [f"p: {parent} -> {child}" for parent, child in self.edges_in_order(False)]
        lines += [f"q: {parent} -> {child} (dashed)" for parent, child in self.edges_in_order(True)]
        return "\n".join(lines)

    def edges_in_order(self, inference: bool) -> list[Edge]:
        order = list(self.nodes)
        edges = self.inference_edges if inference else self.generative_edges
        return sorted(edges, key=lambda edge: (order.index(edge[0]), order.index(edge[1])))

    def plates_around(self, name: str) -> list[str]:
        """The plates around a node, widest first: one nesting order, however the program nests."""
        return sorted(self.nodes[name].plates, key=self.plate_rank)

    def plate_rank(self, plate: str) -> tuple[int, int]:
        return -len(self.members(plate)), list(self.plates).index(plate)

    def split_by_plate(self, names: list[str], depth: int) -> tuple[list[str], dict[str, list[str]]]:
        """Of nodes with `depth` plates around them: those in no further plate, and the others."""
        inner: dict[str, list[str]] = {}
        for name in names:
            for plate in self.plates_around(name)[depth : depth + 1]:
                inner.setdefault(plate, []).append(name)
        return [name for name in names if len(self.nodes[name].plates) <= depth], inner


def plate_diagram(model: Program, guide: Program | None = None, *args: Any, **kwargs: Any) -> PlateDiagram:
    """Run the model and the guide once on the given arguments and read off the plate diagram.

    Nothing moves: modules run in evaluation mode and get their mode back, the random state and
    Pyro's parameter store stay as they are. An argument stands for the model's observed site whose
    value it is, or which is computed from it; one that is no observed site, yet used, is a node of
    its own. A deterministic site is no node: dependence passes through it.

    Returns:
        The diagram of what was executed, also if model and guide do not have the same latents.

    Raises:
        InputError: the model or the guide is not callable.
    """
    for role, program in (("model", model), ("guide", model if guide is None else guide)):
        if not callable(program):
            kind = type(program).__name__
            raise InputError(
                f"the {role} must be a Pyro program (or guide=None), not {kind}: call "
                "plate_diagram(model, guide, *args)."
            )
    programs = (model,) if guide is None else (model, guide)
    names = max((_positional_names(program, len(args)) for program in programs), key=len)
    names += [f"argument {number}" for number in range(len(names) + 1, len(args) + 1)]
    given: dict[_Argument, Tensor] = {}
    args = tuple(_track(value, name, given) for name, value in zip(names, args, strict=True))
    kwargs = {name: _track(value, name, given) for name, value in kwargs.items()}
    with _nothing_moves(*programs):
        runs = [_run(program, args, kwargs) for program in programs]
    return _assemble(runs[0], runs[1] if guide is not None else {}, given, guide is not None)


@dataclass(frozen=True)
class _Argument:
    """Provenance of an argument: never equal to a site's name."""

    name: str


class _Site(NamedTuple):
    observed: bool
    distribution: str
    parents: frozenset[Any]  # names of sites, and arguments
    computed_from: frozenset[Any]  # the same, of the observed value
    frames: tuple[Any, ...]  # plates, outermost first


class _Recorder(Messenger):
    """Notes each sample site with what its distribution was computed from."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, _Site] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) or site_is_deterministic(msg):
            return
        observed, value = msg["is_observed"], msg["value"]
        source = get_provenance(value)
        # A latent is scored as drawn: a copy would miss the cache of flows that cannot be inverted.
        parents = get_provenance(msg["fn"].log_prob(detach_provenance(value) if observed else value))
        parents |= {part for part in source if not (observed and isinstance(part, _Argument))}
        self.sites[msg["name"]] = _Site(
            observed,
            _family(msg["fn"]),
            parents,
            source if observed else frozenset(),
            msg["cond_indep_stack"],
        )
        msg["value"] = track_provenance(detach_provenance(value), frozenset({msg["name"]}))


def _family(distribution: Any) -> str:
    wrappers = ("Independent", "ExpandedDistribution", "MaskedDistribution")
    while type(distribution).__name__ in wrappers:
        distribution = distribution.base_dist
    return type(distribution).__name__


def _run(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, _Site]:
    with poutine.block(), _Recorder() as recorder:
        program(*args, **kwargs)
    sites: dict[str, _Site] = recorder.sites
    return sites


@contextmanager
def _nothing_moves(*programs: Program) -> Iterator[None]:
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


def _positional_names(program: Program, count: int) -> list[str]:
    called = program.forward if isinstance(program, nn.Module) else program
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):  # a builtin, or a callable that shows no signature
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind in kinds][:count]


def _track(value: Any, name: str, given: dict[_Argument, Tensor]) -> Any:
    """The value with every tensor in it tracked; notes them in `given`."""
    if isinstance(value, Tensor):
        argument = _Argument(name)
        given[argument] = value
        return track_provenance(value, frozenset({argument}))
    if type(value) is dict:
        return {key: _track(part, f"{name}[{key}]", given) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_track(p, f"{name}[{i}]", given) for i, p in enumerate(value))
    return value


def _assemble(
    model: dict[str, _Site],
    guide: dict[str, _Site],
    given: dict[_Argument, Tensor],
    has_guide: bool,
) -> PlateDiagram:
    stands_for = _observed_arguments(model)
    used = frozenset().union(*(site.parents for run in (model, guide) for site in run.values()))
    for argument in given:
        if argument in used and argument not in stands_for:
            taken = argument.name in model or argument.name in guide
            stands_for[argument] = [argument.name + " (argument)" * taken]
    generative, inference = _edges(model, stands_for), _edges(guide, stands_for)
    sites = model | {name: site for name, site in guide.items() if name not in model}
    nodes = {
        name: Node(
            name,
            "observed" if site.observed else "latent",
            site.distribution,
            tuple(frame.name for frame in site.frames),
            "model" if name in model else "guide",
        )
        for name, site in sites.items()
    }
    for argument, names in stands_for.items():
        if names[0] not in nodes:
            children = [sites[child] for parent, child in generative | inference if parent in names]
            inside = _plates_of_argument(given[argument], children)
            nodes[names[0]] = Node(names[0], "observed", "", inside, "argument")
    frames = [frame for site in sites.values() for frame in site.frames]
    sizes = {frame.name: int(frame.full_size or frame.size) for frame in reversed(frames)}
    plates = {frame.name: sizes[frame.name] for frame in frames}
    return PlateDiagram(nodes, plates, generative, inference, has_guide)


def _observed_arguments(model: dict[str, _Site]) -> dict[_Argument, list[str]]:
    """The observed sites that each argument is the value of."""
    stands_for: dict[_Argument, list[str]] = {}
    for name, site in model.items():
        arguments = [part for part in site.computed_from if isinstance(part, _Argument)]
        # If several arguments make up the value (data and a mask, say), the one of that name is it.
        for argument in [part for part in arguments if part.name == name] or arguments:
            stands_for.setdefault(argument, []).append(name)
    return stands_for


def _edges(run: dict[str, _Site], stands_for: dict[_Argument, list[str]]) -> frozenset[Edge]:
    return frozenset(
        (end, name)
        for name, site in run.items()
        for parent in site.parents
        for end in ([parent] if isinstance(parent, str) else stands_for[parent])
        if end != name
    )


def _plates_of_argument(value: Tensor, children: list[_Site]) -> tuple[str, ...]:
    """The plates around all that depends on the argument, as far as its shape has their size."""
    shared = set.intersection(*({frame.name for frame in site.frames} for site in children))
    return tuple(
        frame.name
        for frame in children[0].frames
        if frame.name in shared and {frame.size, frame.full_size} & set(value.shape)
    )
