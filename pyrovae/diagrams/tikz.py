"""Write a plate diagram as a LaTeX document that draws it with TikZ."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from pyrovae.diagrams.diagram import PlateDiagram
from pyrovae.diagrams.layout import Arrow, Corner, Layout, captions_of, lay_out
from pyrovae.diagrams.symbols import lines_of, symbol_of

_HEAD = r"""\documentclass[tikz, border=4pt]{standalone}
\usetikzlibrary{arrows.meta, fit, positioning}
\begin{document}
\begin{tikzpicture}[
  latent/.style={circle, draw, minimum size=10mm, inner sep=1pt, align=center},
  predicted/.style={latent},
  partly/.style={latent, path picture={
    \fill[black!18] (path picture bounding box.south west) rectangle (path picture bounding box.north);}},
  observed/.style={latent, fill=black!18},
  factor/.style={rectangle, fill=black, minimum size=3mm, inner sep=0pt},
  factor name/.style={anchor=north, font=\scriptsize, inner sep=1pt},
  plate/.style={draw, rounded corners, inner xsep=4mm, inner ysep=5mm},
  caption/.style={anchor=south east, font=\scriptsize},
  generative/.style={-{Stealth}},
  inference/.style={-{Stealth}, dashed}]"""

# In mm: how far a card sticks out to the right and below, and the width of a character in a caption.
_CARD, _CHARACTER = (2, 4.5), 1.3


def to_tikz(diagram: PlateDiagram) -> str:
    """Return the diagram as a LaTeX document; see `PlateDiagram.to_tikz`."""
    return "\n".join(_lines(diagram)) + "\n"


def _lines(diagram: PlateDiagram) -> Iterator[str]:
    layout = lay_out(diagram)
    ids = {name: f"{_identifier(name, f'node {i}')}" for i, name in enumerate(diagram.nodes)}
    yield _HEAD
    yield from _node_lines(diagram, layout, ids)
    for arrow in layout.arrows:
        yield _arrow_line(arrow, ids)
    yield from _plate_lines(diagram, layout, ids)
    yield "\\end{tikzpicture}\n\\end{document}"


def _node_lines(diagram: PlateDiagram, layout: Layout, ids: dict[str, str]) -> Iterator[str]:
    for name, node in diagram.nodes.items():
        x, y = layout.centres[name]
        style = node.status + (", dashed" if node.origin == "guide" and node.status != "factor" else "")
        font, shown = ("", "") if node.status == "factor" else _label(name)
        yield f"  \\node[{style}{font}] ({ids[name]}) at ({1.5 * x:.2f}, {1.5 * y:.2f}) {{{shown}}};"
        if node.status == "factor":
            font = r", font=\tiny" if len(name) > 12 else ""
            yield f"  \\node[factor name{font}] ({ids[name]} name) at ({ids[name]}.south) {{{_tex(name)}}};"


def _arrow_line(arrow: Arrow, ids: dict[str, str]) -> str:
    kind = ("inference" if arrow.dashed else "generative") if arrow.head else "dashed" * arrow.dashed
    angle = round(math.degrees(math.atan(2 * abs(arrow.bend))))
    bend = f"bend {'right' if arrow.bend > 0 else 'left'}={angle}" if angle else ""
    return f"  \\draw[{kind}] ({ids[arrow.start]}) to[{bend}] ({ids[arrow.end]});"


def _plate_lines(diagram: PlateDiagram, layout: Layout, ids: dict[str, str]) -> Iterator[str]:
    frames = {name: f"plate {_identifier(name, f'no {i}')}" for i, name in enumerate(diagram.plates)}
    done: list[str] = []
    for plate in layout.boxes:
        members = [diagram.nodes[name] for name in diagram.members(plate)]
        inside = [f"({ids[node.name]})" for node in members]
        inside += [f"({ids[node.name]} name)" for node in members if node.status == "factor"]
        nested = [frames[inner] for inner in diagram.plates_inside(plate, done)]
        inside += [f"({frame}) ({frame} end)" for frame in nested]
        done.append(plate)
        captions = captions_of(diagram, plate)
        width = _CHARACTER * max(len(caption) for caption in captions) + 3
        style = f"plate, minimum width={width:.0f}mm, fit={' '.join(inside)}"
        yield f"  \\node[{style}] ({frames[plate]}) {{}};"
        yield from _card_lines(frames[plate], captions, layout.corners[plate])


def _card_lines(frame: str, captions: list[str], place: Corner) -> Iterator[str]:
    """Yield the captions of a plate, and the visible edges of the cards below the first."""
    right, down = _CARD

    def corner(name: str, aside: int, below: int) -> str:
        shift = f"[xshift={right * aside:g}mm, yshift={down * -below:g}mm]" if aside or below else ""
        return f"({shift}{frame}.{name})"

    for k, caption in enumerate(captions):
        if k > 0:
            ends = corner("south west", k, k - 1), corner("north east", k - 1, k)
            between = " -- ".join(corner(name, k, k) for name in ("south west", "south east", "north east"))
            yield f"  \\draw[rounded corners] {ends[0]} -- {between} -- {ends[1]};"
        where = f"{'north' if place.top else 'south'} {'east' if place.right else 'west'}"
        anchor = "" if where == "south east" else f", anchor={where}"
        yield f"  \\node[caption{anchor}] at {corner(where, k, k)} {{{_tex(caption)}}};"
    last = len(captions) - 1
    yield f"  \\coordinate ({frame} end) at {corner('south east', last, last)};"


def _label(name: str) -> tuple[str, str]:
    """Return the font and the text of a name in a circle: a symbol, or lines that end at underscores."""
    if (symbol := symbol_of(name)) is not None:
        return "", symbol
    lines = lines_of(name)
    longest = max(map(len, lines))
    font = r", font=\scriptsize" if longest <= 6 and len(lines) < 3 else r", font=\tiny"
    return font * (longest > 4 or len(lines) > 1), r"\\".join(map(_tex, lines))


def _identifier(name: str, otherwise: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else otherwise


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: "\\" + character for character in "{}$&#_%"}
    return "".join(special.get(character, character) for character in text.replace("\n", " "))
