"""A plate diagram as text: Graphviz's dot, and TikZ."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyrovae.plate_drawing import caption_of, lay_out, plates_inside, symbol_of

if TYPE_CHECKING:
    from pyrovae.plates import PlateDiagram


def dot_lines(diagram: PlateDiagram) -> Iterator[str]:
    yield from _dot_cluster(diagram, list(diagram.nodes), 0)
    for parent, child in diagram.edges_in_order(False):
        yield f"  {_quoted(parent)} -> {_quoted(child)};"
    for parent, child in diagram.edges_in_order(True):
        yield f"  {_quoted(parent)} -> {_quoted(child)} [style=dashed, constraint=false];"


def _dot_cluster(diagram: PlateDiagram, names: list[str], depth: int) -> Iterator[str]:
    indent = "  " * (depth + 1)
    direct, inner = diagram.split_by_plate(names, depth)
    for node in (diagram.nodes[name] for name in direct):
        style = ["dashed"] * (node.origin == "guide") + ["filled"] * (node.status != "latent")
        fill = "lightgrey" if node.observed else "gray95"
        shown = f' [style="{",".join(style)}", fillcolor={fill}]' if style else ""
        yield f"{indent}{_quoted(node.name)}{shown};"
    for plate, inside in inner.items():
        path = "/".join(diagram.plates_around(inside[0])[: depth + 1])
        caption = _quoted(caption_of(diagram, plate))
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


def tikz_lines(diagram: PlateDiagram) -> Iterator[str]:
    layout = lay_out(diagram)
    ids = {name: f"{_tikz_id(name, f'node {i}')}" for i, name in enumerate(diagram.nodes)}
    frames = {name: f"plate {_tikz_id(name, f'no {i}')}" for i, name in enumerate(diagram.plates)}
    yield _TIKZ_HEAD
    for name, node in diagram.nodes.items():
        x, y = layout.centres[name]
        style = node.status + (", dashed" if node.origin == "guide" else "")
        at = f"({1.5 * x:.2f}, {1.5 * y:.2f})"
        yield f"  \\node[{style}] ({ids[name]}) at {at} {{{symbol_of(name) or _tex(name)}}};"
    for arrow in layout.arrows:
        style = "inference" if arrow.inference else "generative"
        angle = round(math.degrees(math.atan(2 * abs(arrow.bend))))
        bend = f"bend {'right' if arrow.bend > 0 else 'left'}={angle}" if angle else ""
        path = f"({ids[arrow.start]}) to[{bend}] ({ids[arrow.end]})"
        yield f"  \\draw[{style}] {path};"
    done: list[str] = []
    for plate in layout.boxes:
        inside = [f"({ids[name]})" for name in diagram.members(plate)]
        inside += [f"({frames[inner]})" for inner in plates_inside(diagram, plate, done)]
        done.append(plate)
        yield f"  \\node[plate, fit={' '.join(inside)}] ({frames[plate]}) {{}};"
        corner = f"({frames[plate]}.south east)"
        yield f"  \\node[caption] at {corner} {{{_tex(caption_of(diagram, plate))}}};"
    yield "\\end{tikzpicture}\n\\end{document}"


def _tikz_id(name: str, otherwise: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else otherwise


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: "\\" + character for character in "{}$&#_%"}
    return "".join(special.get(character, character) for character in text.replace("\n", " "))
