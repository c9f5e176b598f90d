"""Draw a plate diagram with matplotlib, without a system binary and without pyplot."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import (
    Circle,
    FancyArrowPatch,
    FancyBboxPatch,
    Patch,
    PathPatch,
    Polygon,
    Rectangle,
    Wedge,
)
from matplotlib.path import Path

from pyrovae.canvas import Canvas, ink, paper, shade
from pyrovae.diagrams.bends import Point, arc
from pyrovae.diagrams.diagram import Node, PlateDiagram
from pyrovae.diagrams.layout import (
    CARD,
    MARGIN,
    RADIUS,
    Arrow,
    Box,
    Corner,
    Layout,
    captions_of,
    lay_out,
)
from pyrovae.diagrams.symbols import lines_of, symbol_of

_INCH = 0.85  # inches for each unit, in a new figure
_OBSERVED, _LATENT = 0.18, 0.0  # the shares of ink in the fill of observed and latent nodes
_FACTOR = 0.1  # half of the side of a factor's square
_CORNER = 0.12  # the radius of a plate's corners


def draw(diagram: PlateDiagram, ax: Axes | None) -> Figure:
    """Draw the diagram into `ax`, or into a new figure; see `PlateDiagram.draw`."""
    layout = lay_out(diagram)
    legend = _legend(diagram)
    captions = {plate: captions_of(diagram, plate) for plate in layout.boxes}
    view = _view(layout, captions, len(legend))
    width, height = view.right - view.left, view.top - view.bottom
    if ax is None:
        ax = Canvas(figsize=(width * _INCH, height * _INCH)).add_axes((0.0, 0.0, 1.0, 1.0))
    figure = ax.figure.figure  # the whole figure, even where the axes are in a subfigure
    ax.set(xlim=(view.left, view.right), ylim=(view.bottom, view.top), aspect="equal")
    ax.set_axis_off()
    ax.apply_aspect()
    unit = ax.get_window_extent().width / width * 72 / figure.dpi  # points for each unit, for the fonts
    for plate, box in layout.boxes.items():
        _draw_plate(ax, box, captions[plate], layout.corners[plate], unit)
    shapes = {
        name: _draw_node(ax, diagram.nodes[name], centre, unit) for name, centre in layout.centres.items()
    }
    for arrow in layout.arrows:
        _draw_arrow(ax, arrow, layout.centres, shapes)
    if legend:
        entries = list(legend.values()), list(legend)
        ax.legend(*entries, loc="lower center", frameon=False, fontsize=0.16 * unit, markerscale=unit / 45)
    return figure


def _draw_plate(ax: Axes, box: Box, captions: list[str], corner: Corner, unit: float) -> None:
    size = box.right - box.left, box.top - box.bottom
    style = f"round,pad=0,rounding_size={_CORNER}"
    ax.add_patch(FancyBboxPatch(box[:2], *size, boxstyle=style, ec=ink(), fill=False, zorder=1))
    for number, caption in enumerate(captions):
        card = box.moved(number)
        if number:
            ax.add_patch(_card_below(card))
        where: Any = {"ha": "right" if corner.right else "left", "va": "top" if corner.top else "bottom"}
        look: Any = {"fontsize": 0.17 * unit, "color": ink(), "zorder": 4}
        behind: Any = {"facecolor": paper(), "edgecolor": "none", "pad": 0.02 * unit}  # hides an arrow
        x, y = corner.of(card)
        ax.text(x, y, caption.replace("$", r"\$"), bbox=behind, **where, **look)


def _card_below(card: Box) -> PathPatch:
    """Draw the visible edges of a card below another: the lower and the right one."""
    (left, bottom, right, top), (aside, down) = card, CARD
    corners = [
        (left, bottom + down),
        (left, bottom + _CORNER),
        (left, bottom),
        (left + _CORNER, bottom),
        (right - _CORNER, bottom),
        (right, bottom),
        (right, bottom + _CORNER),
        (right, top - _CORNER),
        (right, top),
        (right - _CORNER, top),
        (right - aside, top),
    ]
    curve = [Path.CURVE3, Path.CURVE3, Path.LINETO]
    codes = [Path.MOVETO, Path.LINETO, *curve, *curve, *curve]
    return PathPatch(Path(corners, codes), ec=ink(), fill=False, zorder=1)


def _draw_node(ax: Axes, node: Node, centre: Point, unit: float) -> Patch:
    if node.status == "factor":
        return _draw_factor(ax, node.name, centre, unit)
    rim = "--" if node.origin == "guide" else "-"
    fill = shade(_OBSERVED if node.observed else _LATENT)
    circle = Circle(centre, RADIUS, fc=fill, ec=ink(), ls=rim, zorder=2)
    if node.status == "partly":
        circle.set_fill(False)
        for first, share in ((90, _OBSERVED), (-90, _LATENT)):
            ax.add_patch(Wedge(centre, RADIUS, first, first + 180, color=shade(share), lw=0, zorder=1.9))
    ax.add_patch(circle)
    symbol = symbol_of(node.name)
    lines = [symbol] if symbol else lines_of(node.name)
    longest = 1 if symbol else max(map(len, lines))
    size = min(0.26, 2.3 * RADIUS / longest, 1.1 * RADIUS / len(lines)) * unit
    label = symbol or "\n".join(lines).replace("$", r"\$")
    ax.text(*centre, label, ha="center", va="center", fontsize=size, color=ink(), zorder=4)
    return circle


def _draw_factor(ax: Axes, name: str, centre: Point, unit: float) -> Patch:
    x, y = centre
    square = Rectangle((x - _FACTOR, y - _FACTOR), 2 * _FACTOR, 2 * _FACTOR, color=ink(), lw=0, zorder=2)
    ax.add_patch(square)
    size = min(0.16, max(0.08, 2.0 / len(name))) * unit
    label = name.replace("$", r"\$")
    ax.text(x, y - _FACTOR - 0.05, label, ha="center", va="top", fontsize=size, color=ink(), zorder=4)
    return square


def _draw_arrow(ax: Axes, arrow: Arrow, centres: dict[str, Point], shapes: dict[str, Patch]) -> None:
    """Draw a shaft from rim to rim, and the head separately: a dashed head would look ragged."""
    start, end = centres[arrow.start], centres[arrow.end]
    shaft = FancyArrowPatch(
        start,
        end,
        patchA=shapes[arrow.start],
        patchB=shapes[arrow.end],
        shrinkA=0,
        shrinkB=0,
        connectionstyle=f"arc3,rad={arrow.bend}",
        arrowstyle="-",
        color=ink(),
        linestyle="--" if arrow.dashed else "-",
        zorder=3,
    )
    ax.add_patch(shaft)
    if not arrow.head:
        return
    x, y = end
    outside = (p for p in arc(start, end, arrow.bend) if math.dist(p, end) > RADIUS + 0.1)
    *_, (before_x, before_y) = outside
    angle = math.atan2(before_y - y, before_x - x)
    u, v = math.cos(angle), math.sin(angle)
    corners = [(RADIUS, 0.0), (RADIUS + 0.15, 0.055), (RADIUS + 0.15, -0.055)]
    head = [(x + a * u - b * v, y + a * v + b * u) for a, b in corners]
    ax.add_patch(Polygon(head, color=ink(), linewidth=0, zorder=3))


def _view(layout: Layout, captions: dict[str, list[str]], entries: int) -> Box:
    """Return the limits of the drawing: nodes, plates, arrows, a margin, and room for the legend below."""
    corners = []
    for plate, box in layout.boxes.items():
        lowest = box.moved(len(captions[plate]) - 1)
        corners += [box[:2], box[2:], lowest[:2], lowest[2:]]
    for x, y in layout.centres.values():
        corners += [(x - RADIUS, y - RADIUS), (x + RADIUS, y + RADIUS)]
    for arrow in layout.arrows:
        corners += arc(layout.centres[arrow.start], layout.centres[arrow.end], arrow.bend)
    xs, ys = [x for x, _ in corners] or [0.0], [y for _, y in corners] or [0.0]
    narrow = max(0.0, 2.6 - (max(xs) - min(xs))) / 2 if entries else 0.0
    side = narrow + MARGIN
    bottom = min(ys) - MARGIN - 0.3 * entries
    return Box(min(xs) - side, bottom, max(xs) + side, max(ys) + MARGIN)


def _legend(diagram: PlateDiagram) -> dict[str, Any]:
    """Return the legend: each explanation with the sign that it explains."""
    statuses = {node.status for node in diagram.nodes.values()}
    entries: dict[str, Any] = {}
    if diagram.has_guide:
        entries["p: generative (solid)"] = Line2D([], [], color=ink(), ls="-")
        entries["q: inference (dashed)"] = Line2D([], [], color=ink(), ls="--")
    if "partly" in statuses:
        halves: Any = {"mfc": shade(_OBSERVED), "mfcalt": shade(_LATENT)}
        half = Line2D([], [], marker="o", fillstyle="left", ls="", mew=0, **halves)
        rim = Line2D([], [], marker="o", fillstyle="none", ls="", mec=ink())
        entries["observed for some data"] = (half, rim)
    if "factor" in statuses:
        entries["factor"] = Line2D([], [], marker="s", ls="", color=ink())
    return entries
