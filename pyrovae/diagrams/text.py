"""A plate diagram as text: Graphviz's dot, and TikZ."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyrovae.diagrams.drawing import symbol_of
from pyrovae.diagrams.layout import Point, captions_of, lay_out, plates_inside

if TYPE_CHECKING:
    from pyrovae.diagrams.diagram import Node, PlateDiagram


def dot_lines(diagram: PlateDiagram) -> Iterator[str]:
    yield "digraph plates {"
    yield "  node [shape=circle];"
    yield "  nodesep=0.4;"
    centres = lay_out(diagram).centres
    yield from _dot_cluster(diagram, centres, list(diagram.nodes), 0)
    for parent, child in diagram.in_order(diagram.generative_edges):
        yield f"  {_quoted(parent)} -> {_quoted(child)};"
    for end, factor in diagram.in_order(diagram.factor_edges):
        (x, y), (factor_x, factor_y) = centres[end], centres[factor]
        ends = (factor, end) if y == factor_y and factor_x < x else (end, factor)  # Graphviz starts left
        style = ", style=dashed" * (diagram.nodes[factor].origin == "guide")
        yield f"  {_quoted(ends[0])} -> {_quoted(ends[1])} [dir=none{style}];"
    for parent, child in diagram.in_order(diagram.inference_edges):
        yield f"  {_quoted(parent)} -> {_quoted(child)} [style=dashed, constraint=false];"
    yield "}"


def _dot_cluster(
    diagram: PlateDiagram, centres: dict[str, Point], names: list[str], depth: int
) -> Iterator[str]:
    """Sizes that differ between runs are lines in one box: a box in a box would be a nested plate."""
    indent = "  " * (depth + 1)
    direct, inner = diagram.split_by_plate(names, depth)
    for name in direct:
        yield f"{indent}{_quoted(name)}{_dot_style(diagram.nodes[name])};"
    for height in sorted({centres[name][1] for name in direct if diagram.nodes[name].status == "factor"}):
        row = "; ".join(_quoted(name) for name in direct if centres[name][1] == height)
        yield f"{indent}{{rank=same; {row}}}"
    for plate, inside in inner.items():
        path = "/".join(diagram.plates_around(inside[0])[: depth + 1])
        caption = r"\n".join(_escaped(caption) for caption in captions_of(diagram, plate))
        yield f"{indent}subgraph {_quoted('cluster_' + path)} {{"
        yield f'{indent}  label="{caption}"; labelloc=b; labeljust=r; fontsize=11; style=rounded;'
        yield from _dot_cluster(diagram, centres, inside, depth + 1)
        yield f"{indent}}}"


def _dot_style(node: Node) -> str:
    if node.status == "factor":
        square = "shape=square, style=filled, fillcolor=black, width=0.12, fixedsize=shape"
        return f' [{square}, label="\\n\\n{_escaped(node.name)}", fontsize=10]'  # so it is below the square
    fill = {"observed": ("filled", "lightgrey"), "partly": ("filled", '"lightgrey;0.5:white"')}
    style, colour = fill.get(node.status, ("", ""))
    styles = ["dashed"] * (node.origin == "guide") + [style] * bool(style)
    shown = [f'style="{",".join(styles)}"'] * bool(styles) + [f"fillcolor={colour}"] * bool(colour)
    return f" [{', '.join(shown)}]" if shown else ""


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", " ")


_TIKZ_HEAD = r"""\documentclass[tikz, border=4pt]{standalone}
\usetikzlibrary{arrows.meta, fit, positioning}
\begin{document}
\begin{tikzpicture}[
  latent/.style={circle, draw, minimum size=10mm, inner sep=1pt, align=center},
  partly/.style={latent, path picture={
    \fill[black!18] (path picture bounding box.south west) rectangle (path picture bounding box.north);}},
  observed/.style={latent, fill=black!18},
  factor/.style={rectangle, fill=black, minimum size=3mm, inner sep=0pt},
  factor name/.style={anchor=north, font=\scriptsize, inner sep=1pt},
  plate/.style={draw, rounded corners, inner xsep=4mm, inner ysep=5mm},
  caption/.style={anchor=south east, font=\scriptsize},
  generative/.style={-{Stealth}},
  inference/.style={-{Stealth}, dashed}]"""

# In mm: how far a card peeps out to the right and below, and a caption's character.
_TIKZ_CARD, _TIKZ_CHARACTER = (2, 4.5), 1.3


def tikz_lines(diagram: PlateDiagram) -> Iterator[str]:
    layout = lay_out(diagram)
    ids = {name: f"{_tikz_id(name, f'node {i}')}" for i, name in enumerate(diagram.nodes)}
    frames = {name: f"plate {_tikz_id(name, f'no {i}')}" for i, name in enumerate(diagram.plates)}
    yield _TIKZ_HEAD
    for name, node in diagram.nodes.items():
        x, y = layout.centres[name]
        style = node.status + (", dashed" if node.origin == "guide" and node.status != "factor" else "")
        shown = "" if node.status == "factor" else symbol_of(name) or _tex(name)
        yield f"  \\node[{style}] ({ids[name]}) at ({1.5 * x:.2f}, {1.5 * y:.2f}) {{{shown}}};"
        if node.status == "factor":
            font = r", font=\tiny" if len(name) > 12 else ""
            yield f"  \\node[factor name{font}] ({ids[name]} name) at ({ids[name]}.south) {{{_tex(name)}}};"
    for arrow in layout.arrows:
        kind = ("inference" if arrow.dashed else "generative") if arrow.head else "dashed" * arrow.dashed
        angle = round(math.degrees(math.atan(2 * abs(arrow.bend))))
        bend = f"bend {'right' if arrow.bend > 0 else 'left'}={angle}" if angle else ""
        path = f"({ids[arrow.start]}) to[{bend}] ({ids[arrow.end]})"
        yield f"  \\draw[{kind}] {path};"
    done: list[str] = []
    for plate in layout.boxes:
        members = [diagram.nodes[name] for name in diagram.members(plate)]
        inside = [f"({ids[node.name]})" for node in members]
        inside += [f"({ids[node.name]} name)" for node in members if node.status == "factor"]
        nested = [frames[inner] for inner in plates_inside(diagram, plate, done)]
        inside += [f"({frame}) ({frame} end)" for frame in nested]
        done.append(plate)
        captions = captions_of(diagram, plate)
        width = _TIKZ_CHARACTER * max(len(caption) for caption in captions) + 3
        style = f"plate, minimum width={width:.0f}mm, fit={' '.join(inside)}"
        yield f"  \\node[{style}] ({frames[plate]}) {{}};"
        yield from _tikz_cards(frames[plate], captions)
    yield "\\end{tikzpicture}\n\\end{document}"


def _tikz_cards(frame: str, captions: list[str]) -> Iterator[str]:
    """The sizes of a plate, and of the cards below the first what shows of them."""
    right, down = _TIKZ_CARD

    def corner(name: str, aside: int, below: int) -> str:
        shift = f"[xshift={right * aside:g}mm, yshift={down * -below:g}mm]" if aside or below else ""
        return f"({shift}{frame}.{name})"

    for k, caption in enumerate(captions):
        if k > 0:
            ends = corner("south west", k, k - 1), corner("north east", k - 1, k)
            between = " -- ".join(corner(name, k, k) for name in ("south west", "south east", "north east"))
            yield f"  \\draw[rounded corners] {ends[0]} -- {between} -- {ends[1]};"
        yield f"  \\node[caption] at {corner('south east', k, k)} {{{_tex(caption)}}};"
    last = len(captions) - 1
    yield f"  \\coordinate ({frame} end) at {corner('south east', last, last)};"


def _tikz_id(name: str, otherwise: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else otherwise


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: "\\" + character for character in "{}$&#_%"}
    return "".join(special.get(character, character) for character in text.replace("\n", " "))
