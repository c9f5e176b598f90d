"""Write a plate diagram as a Graphviz graph, in the language dot. Graphviz itself is not needed for it."""

from __future__ import annotations

from collections.abc import Iterator

from pyrovae.diagrams.bends import Point
from pyrovae.diagrams.diagram import Node, PlateDiagram
from pyrovae.diagrams.layout import captions_of, lay_out


def to_dot(diagram: PlateDiagram) -> str:
    """Return the diagram as a Graphviz graph; see `PlateDiagram.to_dot`."""
    return "\n".join(_lines(diagram)) + "\n"


def _lines(diagram: PlateDiagram) -> Iterator[str]:
    yield "digraph plates {"
    yield "  node [shape=circle];"
    yield "  nodesep=0.4;"
    centres = lay_out(diagram).centres
    yield from _cluster(diagram, centres, list(diagram.nodes), 0)
    for parent, child in diagram.in_order(diagram.generative_edges):
        yield f"  {_quoted(parent)} -> {_quoted(child)};"
    for end, factor in diagram.in_order(diagram.factor_edges):
        (x, y), (factor_x, factor_y) = centres[end], centres[factor]
        # In one row, Graphviz puts the first end on the left.
        ends = (factor, end) if y == factor_y and factor_x < x else (end, factor)
        style = ", style=dashed" * (diagram.nodes[factor].origin == "guide")
        yield f"  {_quoted(ends[0])} -> {_quoted(ends[1])} [dir=none{style}];"
    for parent, child in diagram.in_order(diagram.inference_edges):
        yield f"  {_quoted(parent)} -> {_quoted(child)} [style=dashed, constraint=false];"
    yield "}"


def _cluster(
    diagram: PlateDiagram, centres: dict[str, Point], names: list[str], depth: int
) -> Iterator[str]:
    """Yield the nodes inside `depth` plates, and the plates nested there.

    Sizes that differ between runs are lines in one box, since a box in a box would be a nested plate.
    """
    indent = "  " * (depth + 1)
    direct, inner = diagram.split_by_plate(names, depth)
    for name in direct:
        yield f"{indent}{_quoted(name)}{_style(diagram.nodes[name])};"
    for height in sorted({centres[name][1] for name in direct if diagram.nodes[name].status == "factor"}):
        row = "; ".join(_quoted(name) for name in direct if centres[name][1] == height)
        yield f"{indent}{{rank=same; {row}}}"
    for plate, inside in inner.items():
        path = "/".join(diagram.plates_around(inside[0])[: depth + 1])
        caption = r"\n".join(_escaped(caption) for caption in captions_of(diagram, plate))
        yield f"{indent}subgraph {_quoted('cluster_' + path)} {{"
        yield f'{indent}  label="{caption}"; labelloc=b; labeljust=r; fontsize=11; style=rounded;'
        yield from _cluster(diagram, centres, inside, depth + 1)
        yield f"{indent}}}"


def _style(node: Node) -> str:
    if node.status == "factor":
        square = "shape=square, style=filled, fillcolor=black, width=0.12, fixedsize=shape"
        # Two empty lines put the name below the square.
        return f' [{square}, label="\\n\\n{_escaped(node.name)}", fontsize=10]'
    fill = {"observed": ("filled", "lightgrey"), "partly": ("filled", '"lightgrey;0.5:white"')}
    style, colour = fill.get(node.status, ("", ""))
    styles = ["dashed"] * (node.origin == "guide") + [style] * bool(style)
    shown = [f'style="{",".join(styles)}"'] * bool(styles) + [f"fillcolor={colour}"] * bool(colour)
    return f" [{', '.join(shown)}]" if shown else ""


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", " ")
