"""The plate diagram of a model and its guide, read off the running programs.

Both programs are run once (`plate_running`), and an edge is there because a program computed with it. Where
some data have a class and others not, the programs are called once with the labelled and once with the
unlabelled data, and the two diagrams are merged (`plate_merging`).
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from pyrovae.diagrams.drawing import draw
from pyrovae.diagrams.merging import calls_of, merged, sizes_of
from pyrovae.diagrams.text import dot_lines, tikz_lines
from pyrovae.errors import InputError
from pyrovae.programs.dependence import Argument, edges_of, observed_arguments, record
from pyrovae.programs.dependence import RecordedSite as Site
from pyrovae.programs.pair import ModelAndGuide, Program, is_pair, what_to_write
from pyrovae.storage import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Edge = tuple[str, str]

FORMATS = (".png", ".svg", ".pdf", ".dot", ".tex")


@dataclass(frozen=True)
class Node:
    """A random variable, an argument that a program conditions on, or a factor.

    `status` is "partly" if the value is given for some data only, which no single run shows. A "factor"
    multiplies the density and is no variable: a `pyro.factor`, or a second density of the same data.
    `plates` are outermost first. `origin` is where the node was found: a site of the model, a site
    that only the guide has, or an argument that is no site of the model's.
    """

    name: str
    status: Literal["latent", "observed", "partly", "factor"]
    distribution: str
    plates: tuple[str, ...] = ()
    origin: Literal["model", "guide", "argument"] = "model"

    @property
    def observed(self) -> bool:
        """Whether the value is given for every datum."""
        return self.status == "observed"


@dataclass(frozen=True)
class PlateDiagram:
    """Nodes, plates (name to size) and edges (parent, child) of a model and perhaps its guide.

    A factor has no parents: `factor_edges` are pairs (variable or argument, factor). `runs` are the
    diagrams that this one was merged from. If they are about different data, a plate's size is the sum of
    theirs.
    """

    nodes: dict[str, Node]
    plates: dict[str, int]
    generative_edges: frozenset[Edge]
    inference_edges: frozenset[Edge]
    has_guide: bool = False
    factor_edges: frozenset[Edge] = frozenset()
    runs: tuple[PlateDiagram, ...] = ()

    def members(self, plate: str) -> tuple[str, ...]:
        """The names of the nodes inside a plate, those in plates nested in it included."""
        return tuple(node.name for node in self.nodes.values() if plate in node.plates)

    def sizes(self, plate: str) -> list[str]:
        """The plate's size in words; if runs differ in it, that of each run and what the run has.

        M2's, merged from labelled and unlabelled data: `["100 with y", "59,900 without y"]`.
        """
        return sizes_of(self, plate)

    def draw(self, ax: Axes | None = None) -> Figure:
        """Draw into `ax`, or into a figure of its own; returns the figure. No pyplot."""
        return draw(self, ax)

    def to_dot(self) -> str:
        """The diagram as a Graphviz graph: plates are clusters, inference edges are dashed."""
        return "\n".join(dot_lines(self)) + "\n"

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
            f"plate {name} (N = {' and '.join(self.sizes(name))}): {', '.join(self.members(name))}"
            for name in self.plates
        ]
        for node in self.nodes.values():
            drawn = f" ~ {node.distribution}" if node.distribution else ""
            note = {"guide": " (guide only)", "argument": " (argument)"}.get(node.origin, "")
            status = "partly observed" if node.status == "partly" else node.status
            lines.append(f"{status} {node.name}{drawn}{note}")
        lines += [f"p: {parent} -> {child}" for parent, child in self.in_order(self.generative_edges)]
        lines += [f"{factor} -- {end} (factor)" for end, factor in self.in_order(self.factor_edges)]
        lines += [
            f"q: {parent} -> {child} (dashed)" for parent, child in self.in_order(self.inference_edges)
        ]
        return "\n".join(lines)

    def in_order(self, edges: frozenset[Edge]) -> list[Edge]:
        order = list(self.nodes)
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


def plate_diagram(pair: ModelAndGuide | Program, *args: Any, **kwargs: Any) -> PlateDiagram:
    """Run the model and the guide once on the given arguments and read off the plate diagram.

    A program that is not part of a pair is drawn as a model without a guide.

    Nothing moves: modules run in evaluation mode and get their mode back, the random state and
    Pyro's parameter store stay as they are. An argument stands for the model's observed site whose
    value it is, or which is computed from it; one that is no observed site, yet used, is a node of
    its own. A deterministic site is no node: dependence passes through it.

    If the arguments are data and their classes, whole numbers `(N,)` of which some are -1 for unlabelled,
    the programs are run on the labelled data with their classes and on the unlabelled ones without, and
    the diagram is both in one (`merge_diagrams`).

    Returns:
        The diagram of what was executed, also if model and guide do not have the same latents.

    Raises:
        InputError: the first argument is neither a pair nor a program, or a second program follows it; of
            classes that are partly -1 there is not one for each datum, or one is below -1.
    """
    model, guide = _programs_of(pair, args)
    runs = [_diagram_of_call(model, guide, *call) for call in calls_of(args, kwargs)]
    return merged(runs) if len(runs) > 1 else runs[0]


def _programs_of(pair: ModelAndGuide | Program, args: tuple[Any, ...]) -> tuple[Program, Program | None]:
    if is_pair(pair):
        return pair.model, pair.guide
    followed_by_guide = bool(args) and (args[0] is None or callable(args[0]))
    if not callable(pair) or followed_by_guide:
        raise InputError(what_to_write("plate_diagram", pair, args))
    return pair, None


def merge_diagrams(*diagrams: PlateDiagram) -> PlateDiagram:
    """One diagram of runs on different data, say with and without labels.

    Nodes and edges are those of any run. A variable that is observed in one run and latent in another, or
    not there, is partly observed. A plate that differs between the runs keeps each run's size.

    Raises:
        InputError: fewer than two diagrams; or they contradict each other: a site is in different plates,
            has different distributions, or is a factor in one and a variable in another; or their
            generative edges go round in a circle.
    """
    strangers = [type(each).__name__ for each in diagrams if not isinstance(each, PlateDiagram)]
    if strangers or len(diagrams) < 2:
        got = f"a {strangers[0]}" if strangers else f"{len(diagrams)}"
        raise InputError(
            f"expected two or more plate diagrams to merge, got {got}: call "
            "merge_diagrams(plate_diagram(...), plate_diagram(...))."
        )
    return merged(diagrams)


def _diagram_of_call(
    model: Program, guide: Program | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> PlateDiagram:
    programs = (model,) if guide is None else (model, guide)
    runs, given = record(programs, args, kwargs)
    return _assemble(runs[0], runs[1] if guide is not None else {}, given, guide is not None)


def _assemble(
    model: dict[str, Site],
    guide: dict[str, Site],
    given: dict[Argument, Tensor],
    has_guide: bool,
) -> PlateDiagram:
    stands_for = observed_arguments(model)
    model = _one_node_for_each_datum(model, stands_for)
    used = frozenset().union(*(site.parents for run in (model, guide) for site in run.values()))
    for argument in given:
        if argument in used and argument not in stands_for:
            taken = argument.name in model or argument.name in guide
            stands_for[argument] = [argument.name + " (argument)" * taken]
    sites = model | {name: site for name, site in guide.items() if name not in model}
    generative, inference = edges_of(model, stands_for), edges_of(guide, stands_for)
    factors = frozenset(edge for edge in generative | inference if sites[edge[1]].factor)
    nodes = {
        name: Node(
            name,
            "factor" if site.factor else "observed" if site.observed else "latent",
            "" if site.distribution == "Unit" else site.distribution,
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
    return PlateDiagram(nodes, plates, generative - factors, inference - factors, has_guide, factors)


def _one_node_for_each_datum(
    model: dict[str, Site], stands_for: dict[Argument, list[str]]
) -> dict[str, Site]:
    """Model and arguments such that an argument observed at several sites is one variable.

    It is drawn once: at the site of its name, or else the first. Its densities at the others are factors
    that tie it to what they depend on.
    """
    model = dict(model)
    for argument, names in stands_for.items():
        variable = argument.name if argument.name in names else names[0]
        for name in [name for name in names if name != variable]:
            site = model[name]
            if site.computed_from == {argument} and _same(site.value, model[variable].value):
                model[name] = site._replace(parents=site.parents | {variable}, factor=True)
                names.remove(name)
    return model


def _same(one: Tensor, other: Tensor) -> bool:
    return one.numel() == other.numel() and bool((one.flatten() == other.flatten()).all())


def _plates_of_argument(value: Tensor, children: list[Site]) -> tuple[str, ...]:
    """The plates around all that depends on the argument, as far as its shape has their size."""
    shared = set.intersection(*({frame.name for frame in site.frames} for site in children))
    return tuple(
        frame.name
        for frame in children[0].frames
        if frame.name in shared and {frame.size, frame.full_size} & set(value.shape)
    )
