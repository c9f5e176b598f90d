"""Bend arrows so that they keep clear of nodes and of each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Point = tuple[float, float]
Points = np.ndarray[Any, Any]  # (P, 2)

# Bends of an arrow, and the least bend where another arrow has the same ends.
_BENDS = [0.0, *(sign * bend for bend in (0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.25) for sign in (1, -1))]
_APART = 0.3
_CELL = 0.05  # the width of a cell of the grid; a line covers its cell and the next ones
_ALONG = 0.25  # an arrow that runs along another for this share of its way cannot be seen


def arc(start: Point, end: Point, bend: float, count: int = 41) -> list[Point]:
    """Return points along an arrow, matplotlib's arc3: a quadratic Bezier curve."""
    (x0, y0), (x1, y1) = start, end
    x, y = (x0 + x1) / 2 + bend * (y1 - y0), (y0 + y1) / 2 - bend * (x1 - x0)
    weights = [((1 - t) ** 2, 2 * t * (1 - t), t**2) for t in np.linspace(0, 1, count).tolist()]
    return [(a * x0 + b * x + c * x1, a * y0 + b * y + c * y1) for a, b, c in weights]


class Bends:
    """Chooses the bends of arrows, one after the other.

    Args:
        centres: the centres of the nodes by name.
        reach: the distance that arrows keep from each node.
        radius: the radius of a node. An arrow is hidden there.
    """

    def __init__(self, centres: Mapping[str, Point], reach: Mapping[str, float], radius: float) -> None:
        self.centres, self.radius = centres, radius
        self.faults = 0
        self._names = {name: row for row, name in enumerate(centres)}
        self._places = np.array([*centres.values()]).reshape(-1, 2)
        self._reach = np.array([reach[name] for name in centres])
        self._middle = self._places.mean(0) if len(centres) else np.zeros(2)
        self._near: dict[Point, list[int]] = {}  # the arrows at and beside each cell
        self._lengths: list[int] = []
        self._ends: set[frozenset[str]] = set()

    def choose(self, start: str, end: str) -> float:
        """Return the bend of the next arrow: straight if possible, else bent just enough to be clear.

        If no bend is clear, it is the best one, and `faults` counts it.
        """
        least = _APART if frozenset((start, end)) in self._ends else 0.0
        bends = [bend for bend in _BENDS if abs(bend) >= least]
        best: tuple[tuple[int, float], float, Points] | None = None
        for bend in sorted(bends, key=lambda bend: (abs(bend), -self._outward(start, end, bend))):
            curve = np.array(arc(self.centres[start], self.centres[end], bend))
            points = self._visible(start, end, bend, curve)
            along = self._share_along(points)
            cost = self._touched(start, end, curve), along if along > _ALONG else 0.0
            if best is None or cost < best[0]:
                best = cost, bend, points
            if cost == (0, 0.0):
                break
        assert best is not None
        self.faults += best[0] != (0, 0.0)
        self._draw(best[2])
        self._ends.add(frozenset((start, end)))
        return best[1]

    def _outward(self, start: str, end: str, bend: float) -> float:
        """Return the distance of an arrow's middle from the middle of the drawing."""
        return round(math.dist(arc(self.centres[start], self.centres[end], bend, 3)[1], self._middle), 3)

    def _touched(self, start: str, end: str, curve: Points) -> int:
        """Return the number of nodes that an arrow touches, other than those at its ends."""
        distances = np.hypot(*(self._places[:, None] - curve).transpose(2, 0, 1)).min(1)
        touched = distances < self._reach
        touched[[self._names[start], self._names[end]]] = False
        return int(touched.sum())

    def _visible(self, start: str, end: str, bend: float, curve: Points) -> Points:
        """Return points of an arrow that are as far apart as cells, outside of the nodes at its ends."""
        length = np.hypot(*np.diff(curve, axis=0).T).sum()
        ends = self.centres[start], self.centres[end]
        points = np.array(arc(*ends, bend, 2 + int(length / _CELL)))
        return points[np.all([np.hypot(*(points - centre).T) > self.radius for centre in ends], axis=0)]

    def _share_along(self, points: Points) -> float:
        """Return the largest share of an arrow that lies on another, or of another that lies on it."""
        met = Counter(other for cell in _cells(points) for other in self._near.get(cell, ()))
        return max((n / max(1, min(len(points), self._lengths[k])) for k, n in met.items()), default=0.0)

    def _draw(self, points: Points) -> None:
        number = len(self._lengths)
        self._lengths.append(len(points))
        around = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        for cell in {(x + i, y + j) for x, y in _cells(points) for i, j in around}:
            self._near.setdefault(cell, []).append(number)


def _cells(points: Points) -> Sequence[Point]:
    return [(x, y) for x, y in np.floor(points / _CELL).astype(int).tolist()]
