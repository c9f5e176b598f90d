"""What can go wrong in a drawing: an arrow through a node, along another one, or on a plate's frame."""

from __future__ import annotations

import math

import numpy as np

from pyrovae.diagrams import PlateDiagram
from pyrovae.diagrams.bends import arc
from pyrovae.diagrams.layout import RADIUS, Layout, lay_out

LINE = 0.05  # arrows that are closer than this cannot be told apart


def faults(diagram: PlateDiagram) -> list[tuple[str, ...]]:
    """Return arrows that touch a node between their ends, or the frame around them, and hidden ones."""
    layout = lay_out(diagram)
    return [
        *pierced_nodes(diagram, layout),
        *hidden_arrows(layout),
        *crossed_frames(diagram, layout),
        *wrong_members(diagram, layout),
    ]


def crossed_frames(diagram: PlateDiagram, layout: Layout) -> list[tuple[str, ...]]:
    """Return each arrow with both ends in a plate that touches the plate's frame, with that plate."""
    found: list[tuple[str, ...]] = []
    for arrow in layout.arrows:
        points = np.array(arc(layout.centres[arrow.start], layout.centres[arrow.end], arrow.bend))
        for plate, (left, bottom, right, top) in layout.boxes.items():
            inside = (points > (left + LINE, bottom + LINE)) & (points < (right - LINE, top - LINE))
            if {*arrow[:2]} <= {*diagram.members(plate)} and not inside.all():
                found.append((arrow.start, arrow.end, plate))
    return found


def wrong_members(diagram: PlateDiagram, layout: Layout) -> list[tuple[str, ...]]:
    """Return each node that touches a plate to which it does not belong, with that plate."""
    return [
        (name, plate)
        for plate, (left, bottom, right, top) in layout.boxes.items()
        for name, (x, y) in layout.centres.items()
        if name not in diagram.members(plate)
        and left - RADIUS < x < right + RADIUS
        and bottom - RADIUS < y < top + RADIUS
    ]


def pierced_nodes(diagram: PlateDiagram, layout: Layout) -> list[tuple[str, ...]]:
    """Return each arrow that touches a node between its ends, with that node."""
    found: list[tuple[str, ...]] = []
    for arrow in layout.arrows:
        points = arc(layout.centres[arrow.start], layout.centres[arrow.end], arrow.bend)
        for name, centre in layout.centres.items():
            radius = 0.15 if diagram.nodes[name].status == "factor" else RADIUS
            if name not in arrow[:2] and min(math.dist(p, centre) for p in points) < radius + LINE:
                found.append((arrow.start, arrow.end, name))
    return found


def hidden_arrows(layout: Layout) -> list[tuple[str, ...]]:
    """Return the pairs of arrows of which one runs along the other for more than a third of its way."""
    visible = []
    for arrow in layout.arrows:
        ends = layout.centres[arrow.start], layout.centres[arrow.end]
        points = np.array(arc(*ends, arrow.bend))
        far = [np.hypot(*(points - end).T) > RADIUS for end in ends]
        visible.append((arrow, points, points[far[0] & far[1]]))
    found: list[tuple[str, ...]] = []
    for one, _, shown in visible:
        for other, curve, _ in visible:
            if one is not other and len(shown) and covered(shown, curve) > 1 / 3:
                found.append((*one[:2], *other[:2]))
    return found


def covered(points: np.ndarray, curve: np.ndarray) -> float:
    """Return the share of points that lie on a curve, which is given by its points."""
    steps = np.linspace(curve[:-1], curve[1:], 5).reshape(-1, 2)
    apart = np.hypot(*(points[:, None] - steps[None]).transpose(2, 0, 1))
    return float((apart.min(1) < LINE).mean())
