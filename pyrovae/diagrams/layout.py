"""Place the nodes, plates and arrows of a plate diagram.

Parents stand above their children. A plate that differs between merged runs is drawn as a stack of cards,
one for each run: the first holds the nodes, and the others stick out below it with their sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import NamedTuple

from pyrovae.diagrams.bends import Bends, Point, arc
from pyrovae.diagrams.diagram import Node, PlateDiagram

# Lengths are in the units of the drawing.
RADIUS, MARGIN, _PAD, _CAPTION, _ARROW = 0.36, 0.25, 0.3, 0.22, 0.75
CARD = 0.14, 0.32  # the width and height of the part of a card that sticks out to the right and below
_CHARACTER = 0.12  # the width of a character in a caption
_INSIDE = 0.1, 0.08  # the distance of a caption from the sides of its plate, across and up
_SLOTS = [2 * (RADIUS + MARGIN) * spread for spread in (1.0, 1.25, 1.5, 2.0, 2.5)]
_MANY = 100  # with more arrows than this, wider columns take too long and do not help


class Box(NamedTuple):
    """A rectangle by its edges."""

    left: float
    bottom: float
    right: float
    top: float

    def moved(self, cards: int) -> Box:
        """Return the box of the card that lies `cards` places further down the stack."""
        right, down = cards * CARD[0], cards * CARD[1]
        return Box(self.left + right, self.bottom - down, self.right + right, self.top - down)


class Corner(NamedTuple):
    """The corner of a plate where its caption stands.

    Attributes:
        right: whether it is a right one.
        top: whether it is an upper one.
    """

    right: bool
    top: bool

    def of(self, box: Box) -> Point:
        """Return the place of a caption's own corner, inside of the plate's."""
        across, up = _INSIDE
        x = box.right - across if self.right else box.left + across
        return x, box.top - up if self.top else box.bottom + up

    def taken(self, box: Box, width: float) -> Box:
        """Return the room that a caption of some width takes there."""
        x, y = self.of(box)
        left, bottom = x - width * self.right, y - _CAPTION * self.top
        return Box(left, bottom, left + width, bottom + _CAPTION)


_CORNERS = Corner(True, False), Corner(False, False), Corner(True, True), Corner(False, True)


class Arrow(NamedTuple):
    """An arrow between two nodes.

    Attributes:
        start: the name of the node where it starts.
        end: the name of the node where it ends.
        bend: its bend to the right, as a fraction of the distance, as in matplotlib's arc3.
        dashed: whether it is dashed.
        head: whether it has a head; lines to factors have none.
    """

    start: str
    end: str
    bend: float
    dashed: bool
    head: bool = True


class Layout(NamedTuple):
    """The places of everything in a drawing.

    Attributes:
        centres: the centres of the nodes by name.
        boxes: the boxes of the plates by name, inner plates before outer ones. Where a plate is a stack of
            cards, this is the first card.
        arrows: the arrows, generative ones first.
        corners: the corner of each plate where its caption stands.
    """

    centres: dict[str, Point]
    boxes: dict[str, Box]
    arrows: list[Arrow]
    corners: dict[str, Corner]


def captions_of(diagram: PlateDiagram, plate: str) -> list[str]:
    """Return the caption of each card of a plate: its name and its size."""
    return [f"{plate}: {size}" for size in diagram.sizes(plate)]


def _caption_width(diagram: PlateDiagram, plate: str) -> float:
    return max(len(caption) for caption in captions_of(diagram, plate)) * _CHARACTER


def _cards_below(diagram: PlateDiagram, plate: str) -> int:
    return len(diagram.sizes(plate)) - 1


def lay_out(diagram: PlateDiagram) -> Layout:
    """Choose the places of nodes, plates and arrows, the same for every kind of drawing.

    If an arrow goes through a node or along another arrow, wider columns are tried.
    """
    layers = _layers(diagram)
    heights = _heights(diagram, layers)
    found: list[tuple[int, dict[str, Point], list[Arrow]]] = []
    count = len(diagram.generative_edges | diagram.factor_edges | diagram.inference_edges)
    for slot in _SLOTS if count <= _MANY else _SLOTS[:1]:
        columns = _columns(diagram, layers, slot)
        centres = {name: (columns[name], heights[layers[name]]) for name in diagram.nodes}
        arrows, faults = _arrows(diagram, centres)
        found.append((faults, centres, arrows))
        if not faults:
            break
    _, centres, arrows = min(found, key=lambda each: each[0])
    boxes: dict[str, Box] = {}
    for plate in sorted(diagram.plates, key=diagram.plate_rank, reverse=True):
        boxes[plate] = _box(diagram, plate, centres, boxes, arrows)
    return Layout(centres, boxes, arrows, _corners(diagram, centres, boxes, arrows))


def _layers(diagram: PlateDiagram) -> dict[str, int]:
    """Number the row of each node from the top: parents above children, roots just above their children."""
    layers = dict.fromkeys(diagram.nodes, 0)
    for _ in layers:
        for parent, child in diagram.generative_edges:
            layers[child] = min(max(layers[child], layers[parent] + 1), len(layers))
    children = {n: [c for p, c in diagram.generative_edges if p == n] for n in layers}
    for name in layers:
        if layers[name] == 0 and children[name]:
            layers[name] = max(0, min(layers[child] for child in children[name]) - 1)
    generated = {end for edge in diagram.generative_edges for end in edge}
    for parent, child in diagram.in_order(diagram.inference_edges):
        if parent not in generated:
            layers[parent] = layers[child]
    for name, ends in _scopes(diagram).items():  # a factor stands beside the nodes it connects
        layers[name] = max((layers[end] for end in ends), default=0)
    rows = sorted(set(layers.values()))
    return {name: rows.index(layer) for name, layer in layers.items()}


def _scopes(diagram: PlateDiagram) -> dict[str, list[str]]:
    """Return the nodes that each factor is connected with."""
    factors = [name for name, node in diagram.nodes.items() if node.status == "factor"]
    edges = diagram.in_order(diagram.factor_edges)
    return {factor: [end for end, other in edges if other == factor] for factor in factors}


def _from_the_left(diagram: PlateDiagram, layers: dict[str, int]) -> list[str]:
    """Order the nodes from left to right: factors on the outer side of the nodes they connect."""
    scopes = _scopes(diagram)
    order = [name for name in diagram.nodes if name not in scopes]
    for factor, ends in scopes.items():
        row = [name for name in order if layers[name] == layers[factor]]
        beside = next((name for name in row if name in ends), None)
        if beside is None:
            order.append(factor)
        else:
            on_the_left = 2 * row.index(beside) < len(row) - 1
            order.insert(order.index(beside) + (not on_the_left), factor)
    return order


def _columns(diagram: PlateDiagram, layers: dict[str, int], slot: float) -> dict[str, float]:
    """Return the column of each node; `slot` is the width of a column."""
    if any(_cross(diagram, a, b) for a in diagram.plates for b in diagram.plates):
        columns = _columns_by_plates(diagram, layers, slot)
    else:
        columns, _ = _block(diagram, layers, _from_the_left(diagram, layers), 0, slot)
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


def _columns_by_plates(diagram: PlateDiagram, layers: dict[str, int], slot: float) -> dict[str, float]:
    """Place overlapping plates: nodes with the same plates form a strip, and a plate's strips adjoin."""
    strips = list(dict.fromkeys(frozenset(node.plates) for node in diagram.nodes.values()))

    def intruders(order: Iterable[frozenset[str]]) -> int:
        spans = [[i for i, strip in enumerate(order) if p in strip] for p in diagram.plates]
        return sum(span[-1] - span[0] + 1 - len(span) for span in spans)

    if len(strips) <= 6:
        strips = list(min(permutations(strips), key=intruders))
    columns: dict[str, float] = {}
    order = _from_the_left(diagram, layers)
    left = 0.0
    for strip in strips:
        names = [n for n in order if frozenset(diagram.nodes[n].plates) == strip]
        flat, width = _block(diagram, layers, names, len(diagram.plates), slot)
        columns |= {name: left + column for name, column in flat.items()}
        left += width + 2 * _PAD
    return columns


def _block(
    diagram: PlateDiagram, layers: dict[str, int], names: list[str], depth: int, slot: float
) -> tuple[dict[str, float], float]:
    """Return the columns of the nodes inside `depth` plates, and the width of the block that they form.

    Columns are counted from the left edge of the block. Nodes and plates that share a row stand side by
    side, plates to the right of nodes. Shorter rows are centred.
    """
    edge = dict.fromkeys(layers.values(), 0.0)  # the position up to which each row is filled
    bands = {layer: {layer} for layer in edge}  # rows that a plate ties together
    columns: dict[str, float] = {}
    direct, inner = diagram.split_by_plate(names, depth)
    for name in direct:
        columns[name] = edge[layers[name]] + slot / 2
        edge[layers[name]] += slot
    for plate, inside in inner.items():
        nested, width = _block(diagram, layers, inside, depth + 1, slot)
        wide = max(width + 2 * _PAD, _caption_width(diagram, plate) + 2 * MARGIN)
        wide += 2 * CARD[0] * _cards_below(diagram, plate)
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
    """Return the height of each row, with room between rows for plates that end or begin there."""
    rows = {p: [layers[name] for name in diagram.members(p)] for p in diagram.plates}
    heights = [0.0]
    for row in range(max(layers.values(), default=0)):
        nodes = diagram.nodes.values()
        closing = [[p for p in node.plates if max(rows[p]) == row] for node in nodes]
        opening = [sum(min(rows[p]) == row + 1 for p in node.plates) for node in nodes]
        room = max(sum(_foot(diagram, plate) for plate in plates) for plates in closing)
        room += max(opening) * _PAD
        heights.append(heights[-1] - 2 * RADIUS - _ARROW - room)
    return heights


def _foot(diagram: PlateDiagram, plate: str) -> float:
    """Return the height that a plate needs below its lowest node, for its captions."""
    return _PAD + _CAPTION + CARD[1] * _cards_below(diagram, plate)


def _box(
    diagram: PlateDiagram,
    plate: str,
    centres: dict[str, Point],
    boxes: dict[str, Box],
    arrows: Sequence[Arrow],
) -> Box:
    parts = []
    for inner in diagram.plates_inside(plate, boxes):
        parts += [boxes[inner], boxes[inner].moved(_cards_below(diagram, inner))]
    for x, y in (centres[name] for name in diagram.members(plate)):
        parts.append(Box(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS))
    inside = {*diagram.members(plate)}
    for arrow in arrows:
        if {arrow.start, arrow.end} <= inside:  # its bend must not cross the frame
            parts += [Box(x, y, x, y) for x, y in arc(centres[arrow.start], centres[arrow.end], arrow.bend)]
    left, right = min(part.left for part in parts), max(part.right for part in parts)
    bottom, top = min(part.bottom for part in parts), max(part.top for part in parts)
    lack = _caption_width(diagram, plate) - (right - left) - 2 * _PAD
    side = _PAD + max(0.0, lack) / 2
    # The rims of overlapping plates must not coincide.
    shift = 0.3 * sum(_cross(diagram, plate, other) for other in boxes)
    return Box(left - side, bottom - _PAD - _CAPTION - shift, right + side, top + _PAD + shift)


def _corners(
    diagram: PlateDiagram, centres: dict[str, Point], boxes: dict[str, Box], arrows: Sequence[Arrow]
) -> dict[str, Corner]:
    """Choose the corners of the captions: where fewest arrows pass, and no node or other caption is."""
    curves = [arc(centres[arrow.start], centres[arrow.end], arrow.bend) for arrow in arrows]
    found: dict[str, Corner] = {}
    taken: list[Box] = []
    for plate, box in boxes.items():
        width = _caption_width(diagram, plate)

        def faults(corner: Corner, box: Box = box, width: float = width) -> int:
            room = corner.taken(box, width)
            passing = sum(any(_within(room, point) for point in curve) for curve in curves)
            nodes = sum(_within(room, centre, RADIUS) for centre in centres.values())
            return passing + 9 * (nodes + sum(_meet(room, other) for other in taken))

        cards = _cards_below(diagram, plate)  # a card shows its lower right corner only
        found[plate] = min(_CORNERS[:1] if cards else _CORNERS, key=faults)
        taken.append(found[plate].taken(box, width))
    return found


def _within(box: Box, point: Point, margin: float = 0.0) -> bool:
    """Whether a point lies in a box, or within a margin above or below it."""
    x, y = point
    return box.left < x < box.right and box.bottom - margin < y < box.top + margin


def _meet(one: Box, other: Box) -> bool:
    across = one.left < other.right and other.left < one.right
    return across and one.bottom < other.top and other.bottom < one.top


def _arrows(diagram: PlateDiagram, centres: dict[str, Point]) -> tuple[list[Arrow], int]:
    """Choose the arrows, the generative ones first: where two have the same ends, the dashed one bends.

    Returns:
        The arrows, and the number of those that do not keep clear of nodes and of other arrows.
    """
    arrows: list[Arrow] = []
    bends = Bends(centres, {name: _reach(node) for name, node in diagram.nodes.items()}, RADIUS)
    for edges in (diagram.generative_edges, diagram.factor_edges, diagram.inference_edges):
        for start, end in diagram.in_order(edges):
            factor = edges is diagram.factor_edges
            dashed = diagram.nodes[end].origin == "guide" if factor else edges is diagram.inference_edges
            arrows.append(Arrow(start, end, bends.choose(start, end), dashed, head=not factor))
    return arrows, bends.faults


def _reach(node: Node) -> float:
    """Return the distance that arrows keep from a node: from a circle, or from a factor and its name."""
    name = 0.045 * min(len(node.name), 13) if node.status == "factor" else 0.0
    return max(1.25 * RADIUS, name)
