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
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations
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

from pyrovae.errors import InputError
from pyrovae.programs import evaluating, own_parameters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

Program = Callable[..., Any]
Edge = tuple[str, str]
Point = tuple[float, float]

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
        return _draw(self, ax)

    def to_dot(self) -> str:
        """The diagram as a Graphviz graph: plates are clusters, inference edges are dashed."""
        return "digraph plates {\n  node [shape=circle];\n" + "\n".join(_dot_lines(self)) + "\n}\n"

    def to_tikz(self) -> str:
        """The diagram as a LaTeX document of its own (class `standalone`, plain TikZ)."""
        return "\n".join(_tikz_lines(self)) + "\n"

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
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            if suffix in (".dot", ".tex"):
                text = self.to_dot() if suffix == ".dot" else self.to_tikz()
                unfinished.write_text(text, encoding="utf-8")
            else:
                self.draw().savefig(unfinished, format=suffix[1:], dpi=200)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    def __str__(self) -> str:
        lines = [
            f"plate {name} (N = {size}): {', '.join(self.members(name))}"
            for name, size in self.plates.items()
        ]
        for node in self.nodes.values():
            drawn = f" ~ {node.distribution}" if node.distribution else ""
            note = {"guide": " (guide only)", "argument": " (argument)"}.get(node.origin, "")
            lines.append(f"{node.status} {node.name}{drawn}{note}")
        lines += [f"p: {parent} -> {child}" for parent, child in self._sorted(False)]
        lines += [f"q: {parent} -> {child} (dashed)" for parent, child in self._sorted(True)]
        return "\n".join(lines)

    def _sorted(self, inference: bool) -> list[Edge]:
        order = list(self.nodes)
        edges = self.inference_edges if inference else self.generative_edges
        return sorted(edges, key=lambda edge: (order.index(edge[0]), order.index(edge[1])))

    def _chain(self, name: str) -> list[str]:
        """The plates around a node, widest first: one nesting order, however the program nests."""
        return sorted(self.nodes[name].plates, key=self._width)

    def _width(self, plate: str) -> tuple[int, int]:
        return -len(self.members(plate)), list(self.plates).index(plate)

    def _split(self, names: list[str], depth: int) -> tuple[list[str], dict[str, list[str]]]:
        """Of nodes with `depth` plates around them: those in no further plate, and the others."""
        inner: dict[str, list[str]] = {}
        for name in names:
            for plate in self._chain(name)[depth : depth + 1]:
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


# ---------------------------------------------------------------- running the programs


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
    store = pyro.get_param_store()
    started = torch.cuda.is_initialized()
    devices = range(torch.cuda.device_count()) if started else ()
    with (
        evaluating(*programs),
        _evaluating_when_called(),
        torch.random.fork_rng(devices),
        torch.no_grad(),
        pyro.validation_enabled(False),
        own_parameters(),
        # own_parameters hands back what `pyro.param` has made inside, which a drawing must not.
        store.scope(store.get_state()),
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


# ---------------------------------------------------------------- layout, in units of a drawing

_RADIUS, _MARGIN, _PAD, _CAPTION, _ARROW = 0.36, 0.25, 0.3, 0.22, 0.75
_CHARACTER = 0.12  # width of a caption's character


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float


class _Arrow(NamedTuple):
    start: str
    end: str
    bend: float  # as in matplotlib's arc3: how far to the right, in units of the distance
    inference: bool


class _Layout(NamedTuple):
    centres: dict[str, Point]
    boxes: dict[str, _Box]  # innermost plate first
    arrows: list[_Arrow]


def _caption(diagram: PlateDiagram, plate: str) -> str:
    return f"{plate}: {diagram.plates[plate]}"


def _lay_out(diagram: PlateDiagram) -> _Layout:
    layers = _layers(diagram)
    columns = _columns(diagram, layers)
    heights = _heights(diagram, layers)
    centres = {name: (columns[name], heights[layers[name]]) for name in diagram.nodes}
    boxes: dict[str, _Box] = {}
    for plate in sorted(diagram.plates, key=diagram._width, reverse=True):
        boxes[plate] = _box(diagram, plate, centres, boxes)
    return _Layout(centres, boxes, _arrows(diagram, centres))


def _layers(diagram: PlateDiagram) -> dict[str, int]:
    """Rows from the top: parents above children, roots just above what they generate."""
    layers = dict.fromkeys(diagram.nodes, 0)
    for _ in layers:
        for parent, child in diagram.generative_edges:
            layers[child] = min(max(layers[child], layers[parent] + 1), len(layers))
    children = {n: [c for p, c in diagram.generative_edges if p == n] for n in layers}
    for name in layers:
        if layers[name] == 0 and children[name]:
            layers[name] = max(0, min(layers[child] for child in children[name]) - 1)
    generated = {end for edge in diagram.generative_edges for end in edge}
    for parent, child in diagram._sorted(True):
        if parent not in generated:
            layers[parent] = layers[child]
    rows = sorted(set(layers.values()))
    return {name: rows.index(layer) for name, layer in layers.items()}


def _columns(diagram: PlateDiagram, layers: dict[str, int]) -> dict[str, float]:
    if any(_cross(diagram, a, b) for a in diagram.plates for b in diagram.plates):
        columns = _columns_by_plates(diagram, layers)
    else:
        columns, _ = _block(diagram, layers, list(diagram.nodes), 0)
    spans = [[layers[name] for name in diagram.members(plate)] for plate in diagram.plates]
    for name, row in layers.items():
        children = [columns[end] for start, end in diagram.generative_edges if start == name]
        alone = list(layers.values()).count(row) == 1
        if children and alone and not any(min(span) <= row <= max(span) for span in spans):
            columns[name] = sum(children) / len(children)
    return columns


def _cross(diagram: PlateDiagram, one: str, other: str) -> bool:
    """Whether two plates overlap without one holding the other."""
    a, b = set(diagram.members(one)), set(diagram.members(other))
    return bool(a & b and a - b and b - a)


def _columns_by_plates(diagram: PlateDiagram, layers: dict[str, int]) -> dict[str, float]:
    """For plates that overlap: a strip for each set of plates, and each plate's strips adjoin."""
    strips = list(dict.fromkeys(frozenset(node.plates) for node in diagram.nodes.values()))

    def intruders(order: Iterable[frozenset[str]]) -> int:
        spans = [[i for i, strip in enumerate(order) if p in strip] for p in diagram.plates]
        return sum(span[-1] - span[0] + 1 - len(span) for span in spans)

    if len(strips) <= 6:
        strips = list(min(permutations(strips), key=intruders))
    columns: dict[str, float] = {}
    left = 0.0
    for strip in strips:
        names = [n for n, node in diagram.nodes.items() if frozenset(node.plates) == strip]
        flat, width = _block(diagram, layers, names, len(diagram.plates))
        columns |= {name: left + column for name, column in flat.items()}
        left += width + 2 * _PAD
    return columns


def _block(
    diagram: PlateDiagram, layers: dict[str, int], names: list[str], depth: int
) -> tuple[dict[str, float], float]:
    """Columns of the nodes inside `depth` plates, from 0 to the width, which is returned as well.

    What shares a row stands side by side, plates to the right of nodes; the rest is centred.
    """
    slot = 2 * (_RADIUS + _MARGIN)
    edge = dict.fromkeys(layers.values(), 0.0)  # how far each row is filled
    bands = {layer: {layer} for layer in edge}  # rows that a plate ties together
    columns: dict[str, float] = {}
    direct, inner = diagram._split(names, depth)
    for name in direct:
        columns[name] = edge[layers[name]] + slot / 2
        edge[layers[name]] += slot
    for plate, inside in inner.items():
        nested, width = _block(diagram, layers, inside, depth + 1)
        wide = max(width + 2 * _PAD, len(_caption(diagram, plate)) * _CHARACTER + 2 * _MARGIN)
        rows = [layers[name] for name in inside]
        span = range(min(rows), max(rows) + 1)
        left = max(edge[row] for row in span)
        columns |= {name: left + (wide - width) / 2 + at for name, at in nested.items()}
        tied = set().union(*(bands[row] for row in span))
        bands |= dict.fromkeys(tied, tied)
        edge |= dict.fromkeys(span, left + wide)
    total = max(edge.values(), default=0.0)
    for name in names:
        filled = max(edge[row] for row in bands[layers[name]])
        columns[name] += (total - filled) / 2
    return columns, total


def _heights(diagram: PlateDiagram, layers: dict[str, int]) -> list[float]:
    """Rows' heights, with room for the plates that end above a row and begin below the next."""
    rows = {p: [layers[name] for name in diagram.members(p)] for p in diagram.plates}
    heights = [0.0]
    for row in range(max(layers.values(), default=0)):
        closing = [sum(max(rows[p]) == row for p in n.plates) for n in diagram.nodes.values()]
        opening = [sum(min(rows[p]) == row + 1 for p in n.plates) for n in diagram.nodes.values()]
        room = max(closing) * (_PAD + _CAPTION) + max(opening) * _PAD
        heights.append(heights[-1] - 2 * _RADIUS - _ARROW - room)
    return heights


def _box(diagram: PlateDiagram, plate: str, centres: dict[str, Point], boxes: dict[str, _Box]) -> _Box:
    parts = [boxes[inner] for inner in _plates_inside(diagram, plate, boxes)]
    for x, y in (centres[name] for name in diagram.members(plate)):
        parts.append(_Box(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS))
    left, right = min(part.left for part in parts), max(part.right for part in parts)
    bottom, top = min(part.bottom for part in parts), max(part.top for part in parts)
    lack = len(_caption(diagram, plate)) * _CHARACTER - (right - left) - 2 * _PAD
    side = _PAD + max(0.0, lack) / 2
    shift = 0.3 * sum(_cross(diagram, plate, other) for other in boxes)  # tells their rims apart
    return _Box(left - side, bottom - _PAD - _CAPTION - shift, right + side, top + _PAD + shift)


def _plates_inside(diagram: PlateDiagram, plate: str, among: Iterable[str]) -> list[str]:
    members = set(diagram.members(plate))
    return [inner for inner in among if set(diagram.members(inner)) <= members]


def _arrows(diagram: PlateDiagram, centres: dict[str, Point]) -> list[_Arrow]:
    """The arrows, each bent as little as keeps it off other nodes and off its counterpart."""
    p, q = diagram.generative_edges, diagram.inference_edges
    arrows = []
    for inference in (False, True):
        for start, end in diagram._sorted(inference):
            bends = [0.0, 0.3, -0.3, 0.45, -0.45, 0.6, -0.6]
            if (end, start) in p | q:  # there and back: both bend to their right, so apart
                bends = [0.22, 0.35, 0.5, 0.65]
            if (start, end) in p & q:
                bends = [-0.22, -0.35, -0.5, -0.65] if inference else [0.22, 0.35, 0.5, 0.65]
            free = (bend for bend in bends if _is_clear(start, end, bend, centres))
            arrows.append(_Arrow(start, end, next(free, bends[-1]), inference))
    return arrows


def _is_clear(start: str, end: str, bend: float, centres: dict[str, Point]) -> bool:
    others = [centre for name, centre in centres.items() if name not in (start, end)]
    points = _arc(centres[start], centres[end], bend)
    return all(math.dist(p, centre) > 1.25 * _RADIUS for p in points for centre in others)


def _arc(start: Point, end: Point, bend: float) -> list[Point]:
    """Points along matplotlib's arc3, a quadratic Bezier curve."""
    (x0, y0), (x1, y1) = start, end
    x, y = (x0 + x1) / 2 + bend * (y1 - y0), (y0 + y1) / 2 - bend * (x1 - x0)
    weights = [((1 - t) ** 2, 2 * t * (1 - t), t**2) for t in (k / 40 for k in range(41))]
    return [(a * x0 + b * x + c * x1, a * y0 + b * y + c * y1) for a, b, c in weights]


# ---------------------------------------------------------------- renderings

_INCH = 0.85  # of a unit, in a figure of its own
_SHADES = {"latent": "1.0", "partly": "0.93", "observed": "0.82"}
_GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|phi|chi|psi|omega"
)


def _symbol(name: str) -> str | None:
    """`z`, `z1`, `z_1` and `mu` as mathematics; None for other names."""
    match = re.fullmatch(rf"([A-Za-z]|{_GREEK})_?(\d*)", name)
    if match is None:
        return None
    letter = match[1] if len(match[1]) == 1 else "\\" + match[1]
    return f"${letter}_{{{match[2]}}}$" if match[2] else f"${letter}$"


def _draw(diagram: PlateDiagram, ax: Axes | None) -> Figure:
    from matplotlib.figure import Figure

    layout = _lay_out(diagram)
    view = _view(layout, legend=diagram.has_guide)
    width, height = view.right - view.left, view.top - view.bottom
    if ax is None:
        ax = Figure(figsize=(width * _INCH, height * _INCH)).add_axes((0.0, 0.0, 1.0, 1.0))
    figure = ax.figure.figure  # of a subfigure's axes, too, the whole
    ax.set(xlim=(view.left, view.right), ylim=(view.bottom, view.top), aspect="equal")
    ax.set_axis_off()
    ax.apply_aspect()
    unit = ax.get_window_extent().width / width * 72 / figure.dpi  # in points, for the fonts
    for plate, box in layout.boxes.items():
        _draw_plate(ax, box, _caption(diagram, plate), unit)
    circles = {
        name: _draw_node(ax, diagram.nodes[name], centre, unit) for name, centre in layout.centres.items()
    }
    for arrow in layout.arrows:
        _draw_arrow(ax, circles[arrow.start], circles[arrow.end], arrow)
    if diagram.has_guide:
        _draw_legend(ax, unit)
    return figure


def _draw_plate(ax: Axes, box: _Box, caption: str, unit: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    size = box.right - box.left, box.top - box.bottom
    style = "round,pad=0,rounding_size=0.12"
    ax.add_patch(FancyBboxPatch(box[:2], *size, boxstyle=style, fill=False, zorder=1))
    x, y, text = box.right - 0.1, box.bottom + 0.08, caption.replace("$", r"\$")
    ax.text(x, y, text, ha="right", va="bottom", fontsize=0.17 * unit, zorder=4)


def _draw_node(ax: Axes, node: Node, centre: Point, unit: float) -> Circle:
    from matplotlib.patches import Circle

    rim = "--" if node.origin == "guide" else "-"
    circle = Circle(centre, _RADIUS, fc=_SHADES[node.status], ec="black", ls=rim, zorder=2)
    ax.add_patch(circle)
    symbol = _symbol(node.name)
    label = symbol or node.name.replace("$", r"\$").replace("_", "_\n")
    longest = 1 if symbol else max(len(line) for line in label.split("\n"))
    size = min(0.26, max(0.1, 2.3 * _RADIUS / longest)) * unit
    ax.text(*centre, label, ha="center", va="center", fontsize=size, zorder=4)
    return circle


def _draw_arrow(ax: Axes, start: Circle, end: Circle, arrow: _Arrow) -> None:
    """A shaft from rim to rim and a head of its own, which a dashed shaft would leave ragged."""
    from matplotlib.patches import FancyArrowPatch, Polygon

    shaft = FancyArrowPatch(
        start.center,
        end.center,
        patchA=start,
        patchB=end,
        shrinkA=0,
        shrinkB=0,
        connectionstyle=f"arc3,rad={arrow.bend}",
        arrowstyle="-",
        linestyle="--" if arrow.inference else "-",
        zorder=3,
    )
    ax.add_patch(shaft)
    x, y = end.center
    outside = (
        p for p in _arc(start.center, end.center, arrow.bend) if math.dist(p, (x, y)) > _RADIUS + 0.1
    )
    *_, (before_x, before_y) = outside
    angle = math.atan2(before_y - y, before_x - x)
    u, v = math.cos(angle), math.sin(angle)
    corners = [(_RADIUS, 0.0), (_RADIUS + 0.15, 0.055), (_RADIUS + 0.15, -0.055)]
    head = [(x + a * u - b * v, y + a * v + b * u) for a, b in corners]
    ax.add_patch(Polygon(head, color="black", linewidth=0, zorder=3))


def _view(layout: _Layout, legend: bool) -> _Box:
    """All that must be visible: nodes, plates, arcs, a margin, and room for the legend below."""
    corners = [corner for box in layout.boxes.values() for corner in (box[:2], box[2:])]
    for x, y in layout.centres.values():
        corners += [(x - _RADIUS, y - _RADIUS), (x + _RADIUS, y + _RADIUS)]
    for arrow in layout.arrows:
        corners += _arc(layout.centres[arrow.start], layout.centres[arrow.end], arrow.bend)
    xs, ys = [x for x, _ in corners] or [0.0], [y for _, y in corners] or [0.0]
    narrow = max(0.0, 2.6 - (max(xs) - min(xs))) / 2 if legend else 0.0
    side = narrow + _MARGIN
    bottom = min(ys) - _MARGIN - (0.6 if legend else 0.0)
    return _Box(min(xs) - side, bottom, max(xs) + side, max(ys) + _MARGIN)


def _draw_legend(ax: Axes, unit: float) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color="black", ls="-", label="p: generative (solid)"),
        Line2D([], [], color="black", ls="--", label="q: inference (dashed)"),
    ]
    ax.legend(handles=lines, loc="lower center", frameon=False, fontsize=0.16 * unit)


def _dot_lines(diagram: PlateDiagram) -> Iterator[str]:
    yield from _dot_cluster(diagram, list(diagram.nodes), 0)
    for parent, child in diagram._sorted(False):
        yield f"  {_quoted(parent)} -> {_quoted(child)};"
    for parent, child in diagram._sorted(True):
        yield f"  {_quoted(parent)} -> {_quoted(child)} [style=dashed, constraint=false];"


def _dot_cluster(diagram: PlateDiagram, names: list[str], depth: int) -> Iterator[str]:
    indent = "  " * (depth + 1)
    direct, inner = diagram._split(names, depth)
    for node in (diagram.nodes[name] for name in direct):
        style = ["dashed"] * (node.origin == "guide") + ["filled"] * (node.status != "latent")
        fill = "lightgrey" if node.observed else "gray95"
        shown = f' [style="{",".join(style)}", fillcolor={fill}]' if style else ""
        yield f"{indent}{_quoted(node.name)}{shown};"
    for plate, inside in inner.items():
        path = "/".join(diagram._chain(inside[0])[: depth + 1])
        caption = _quoted(_caption(diagram, plate))
        yield f"{indent}subgraph {_quoted('cluster_' + path)} {{"
        yield f"{indent}  label={caption}; labelloc=b; labeljust=r; style=rounded;"
        yield from _dot_cluster(diagram, inside, depth + 1)
        yield f"{indent}}}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", r"\\").replace('"', r"\"").replace("\n", " ") + '"'


_TIKZ_HEAD = r"""\documentclass[tikz, border=4pt]{standalone}
\usetikzlibrary{arrows.meta, fit, positioning}
\begin{document}
\begin{tikzpicture}[
  latent/.style={circle, draw, minimum size=10mm, inner sep=1pt, align=center},
  partly/.style={latent, fill=black!7},
  observed/.style={latent, fill=black!18},
  plate/.style={draw, rounded corners, inner xsep=4mm, inner ysep=5mm},
  caption/.style={anchor=south east, font=\scriptsize},
  generative/.style={-{Stealth}},
  inference/.style={-{Stealth}, dashed}]"""


def _tikz_lines(diagram: PlateDiagram) -> Iterator[str]:
    layout = _lay_out(diagram)
    ids = {name: f"{_tikz_id(name, f'node {i}')}" for i, name in enumerate(diagram.nodes)}
    frames = {name: f"plate {_tikz_id(name, f'no {i}')}" for i, name in enumerate(diagram.plates)}
    yield _TIKZ_HEAD
    for name, node in diagram.nodes.items():
        x, y = layout.centres[name]
        style = node.status + (", dashed" if node.origin == "guide" else "")
        at = f"({1.5 * x:.2f}, {1.5 * y:.2f})"
        yield f"  \\node[{style}] ({ids[name]}) at {at} {{{_symbol(name) or _tex(name)}}};"
    for arrow in layout.arrows:
        style = "inference" if arrow.inference else "generative"
        angle = round(math.degrees(math.atan(2 * abs(arrow.bend))))
        bend = f"bend {'right' if arrow.bend > 0 else 'left'}={angle}" if angle else ""
        path = f"({ids[arrow.start]}) to[{bend}] ({ids[arrow.end]})"
        yield f"  \\draw[{style}] {path};"
    done: list[str] = []
    for plate in layout.boxes:
        inside = [f"({ids[name]})" for name in diagram.members(plate)]
        inside += [f"({frames[inner]})" for inner in _plates_inside(diagram, plate, done)]
        done.append(plate)
        yield f"  \\node[plate, fit={' '.join(inside)}] ({frames[plate]}) {{}};"
        corner = f"({frames[plate]}.south east)"
        yield f"  \\node[caption] at {corner} {{{_tex(_caption(diagram, plate))}}};"
    yield "\\end{tikzpicture}\n\\end{document}"


def _tikz_id(name: str, otherwise: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else otherwise


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: "\\" + character for character in "{}$&#_%"}
    return "".join(special.get(character, character) for character in text.replace("\n", " "))
