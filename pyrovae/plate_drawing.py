"""How a plate diagram is laid out, and drawn with matplotlib: no system binary, no pyplot."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon

if TYPE_CHECKING:
    from pyrovae.plates import Node, PlateDiagram

Point = tuple[float, float]

# Lengths are in units of the drawing.
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


def caption_of(diagram: PlateDiagram, plate: str) -> str:
    return f"{plate}: {diagram.plates[plate]}"


def lay_out(diagram: PlateDiagram) -> _Layout:
    layers = _layers(diagram)
    columns = _columns(diagram, layers)
    heights = _heights(diagram, layers)
    centres = {name: (columns[name], heights[layers[name]]) for name in diagram.nodes}
    boxes: dict[str, _Box] = {}
    for plate in sorted(diagram.plates, key=diagram.plate_rank, reverse=True):
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
    for parent, child in diagram.edges_in_order(True):
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
    direct, inner = diagram.split_by_plate(names, depth)
    for name in direct:
        columns[name] = edge[layers[name]] + slot / 2
        edge[layers[name]] += slot
    for plate, inside in inner.items():
        nested, width = _block(diagram, layers, inside, depth + 1)
        wide = max(width + 2 * _PAD, len(caption_of(diagram, plate)) * _CHARACTER + 2 * _MARGIN)
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
    parts = [boxes[inner] for inner in plates_inside(diagram, plate, boxes)]
    for x, y in (centres[name] for name in diagram.members(plate)):
        parts.append(_Box(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS))
    left, right = min(part.left for part in parts), max(part.right for part in parts)
    bottom, top = min(part.bottom for part in parts), max(part.top for part in parts)
    lack = len(caption_of(diagram, plate)) * _CHARACTER - (right - left) - 2 * _PAD
    side = _PAD + max(0.0, lack) / 2
    shift = 0.3 * sum(_cross(diagram, plate, other) for other in boxes)  # tells their rims apart
    return _Box(left - side, bottom - _PAD - _CAPTION - shift, right + side, top + _PAD + shift)


def plates_inside(diagram: PlateDiagram, plate: str, among: Iterable[str]) -> list[str]:
    members = set(diagram.members(plate))
    return [inner for inner in among if set(diagram.members(inner)) <= members]


def _arrows(diagram: PlateDiagram, centres: dict[str, Point]) -> list[_Arrow]:
    """The arrows, each bent as little as keeps it off other nodes and off its counterpart."""
    p, q = diagram.generative_edges, diagram.inference_edges
    arrows = []
    for inference in (False, True):
        for start, end in diagram.edges_in_order(inference):
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


_INCH = 0.85  # of a unit, in a figure of its own
_SHADES = {"latent": "1.0", "partly": "0.93", "observed": "0.82"}
_GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|phi|chi|psi|omega"
)


def symbol_of(name: str) -> str | None:
    """`z`, `z1`, `z_1` and `mu` as mathematics; None for other names."""
    match = re.fullmatch(rf"([A-Za-z]|{_GREEK})_?(\d*)", name)
    if match is None:
        return None
    letter = match[1] if len(match[1]) == 1 else "\\" + match[1]
    return f"${letter}_{{{match[2]}}}$" if match[2] else f"${letter}$"


def draw(diagram: PlateDiagram, ax: Axes | None) -> Figure:
    layout = lay_out(diagram)
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
        _draw_plate(ax, box, caption_of(diagram, plate), unit)
    circles = {
        name: _draw_node(ax, diagram.nodes[name], centre, unit) for name, centre in layout.centres.items()
    }
    for arrow in layout.arrows:
        _draw_arrow(ax, circles[arrow.start], circles[arrow.end], arrow)
    if diagram.has_guide:
        _draw_legend(ax, unit)
    return figure


def _draw_plate(ax: Axes, box: _Box, caption: str, unit: float) -> None:
    size = box.right - box.left, box.top - box.bottom
    style = "round,pad=0,rounding_size=0.12"
    ax.add_patch(FancyBboxPatch(box[:2], *size, boxstyle=style, fill=False, zorder=1))
    x, y, text = box.right - 0.1, box.bottom + 0.08, caption.replace("$", r"\$")
    ax.text(x, y, text, ha="right", va="bottom", fontsize=0.17 * unit, zorder=4)


def _draw_node(ax: Axes, node: Node, centre: Point, unit: float) -> Circle:
    rim = "--" if node.origin == "guide" else "-"
    circle = Circle(centre, _RADIUS, fc=_SHADES[node.status], ec="black", ls=rim, zorder=2)
    ax.add_patch(circle)
    symbol = symbol_of(node.name)
    label = symbol or node.name.replace("$", r"\$").replace("_", "_\n")
    longest = 1 if symbol else max(len(line) for line in label.split("\n"))
    size = min(0.26, max(0.1, 2.3 * _RADIUS / longest)) * unit
    ax.text(*centre, label, ha="center", va="center", fontsize=size, zorder=4)
    return circle


def _draw_arrow(ax: Axes, start: Circle, end: Circle, arrow: _Arrow) -> None:
    """A shaft from rim to rim and a head of its own, which a dashed shaft would leave ragged."""
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
    lines = [
        Line2D([], [], color="black", ls="-", label="p: generative (solid)"),
        Line2D([], [], color="black", ls="--", label="q: inference (dashed)"),
    ]
    ax.legend(handles=lines, loc="lower center", frameon=False, fontsize=0.16 * unit)
