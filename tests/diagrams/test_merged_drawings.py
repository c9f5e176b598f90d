"""Drawings and texts of merged diagrams: halves, cards and factors."""

import io
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, PathPatch, Polygon, Rectangle, Wedge
from partly_labelled import every_pair
from torch import Tensor

from pyrovae.diagrams import PlateDiagram, plate_diagram
from pyrovae.programs.pair import Pair


def patches(figure: Figure, kind: type) -> list[Any]:
    return [patch for patch in figure.axes[0].patches if type(patch) is kind]


def pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., 0] / 255


def places(diagram: PlateDiagram, figure: Figure) -> dict[str, tuple[float, float]]:
    variables = [node.name for node in diagram.nodes.values() if node.status != "factor"]
    factors = [node.name for node in diagram.nodes.values() if node.status == "factor"]
    squares = [square for square in patches(figure, Rectangle) if square.get_facecolor()[:3] == (0, 0, 0)]
    found = {n: circle.center for n, circle in zip(variables, patches(figure, Circle), strict=True)}
    return found | {n: square.get_center() for n, square in zip(factors, squares, strict=True)}


def test_partly_observed_is_half_shaded(m2: PlateDiagram) -> None:
    figure = m2.draw()
    image, axes = pixels(figure), figure.axes[0]

    def shade(name: str, aside: float) -> float:
        x, y = places(m2, figure)[name]
        column, row = axes.transData.transform((x + aside, y + 0.2))
        return float(image[image.shape[0] - round(row), round(column)])

    assert shade("y", -0.2) == shade("x", -0.2) == shade("x", 0.2) < 0.9
    assert shade("y", 0.2) == shade("z", -0.2) == shade("z", 0.2) == 1.0
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "observed for some data" in labels
    assert "factor" not in labels


def test_each_size_is_on_a_card(m2: PlateDiagram) -> None:
    figure = m2.draw()
    texts = {text.get_text(): text for text in figure.axes[0].texts}
    first, second = texts["data: 7 with y"], texts["data: 17 without y"]
    (front,) = patches(figure, FancyBboxPatch)
    (card,) = patches(figure, PathPatch)
    bottom = front.get_y()
    assert card.get_path().get_extents().y0 < second.get_position()[1] < bottom < first.get_position()[1]


def test_m2_is_drawn_as_the_standard_drawing(m2: PlateDiagram) -> None:
    at = places(m2, m2.draw())
    assert at["y"][1] == at["z"][1] > at["x"][1]
    assert at["y"][0] < at["x"][0] < at["z"][0]


def test_pcvae_is_drawn_as_the_standard_drawing(make_cpcvae, x: Tensor, y: Tensor) -> None:
    model = make_cpcvae()
    found = plate_diagram(model, x, y)
    at = places(found, found.draw())
    assert at["x"][1] == at["y"][1] < at["z"][1]
    assert at["x"][0] < at["z"][0] < at["y"][0]


def test_factors_are_black_squares_on_plain_lines(constrained: PlateDiagram) -> None:
    figure = constrained.draw()
    arrows = patches(figure, FancyArrowPatch)
    assert len(arrows) == 2 + 4 + 1  # solid, to factors, dashed
    assert [arrow.get_linestyle() for arrow in arrows].count("--") == 1
    assert len(patches(figure, Polygon)) == 3  # heads
    assert set(places(constrained, figure)) == set(constrained.nodes)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"consistency", "aggregate", "y_again"} <= set(texts)


@every_pair
def test_nothing_overlaps(pair: Pair, name: str, x: Tensor, y: Tensor) -> None:
    found = plate_diagram(pair, x, y)
    figure = found.draw()
    pixels(figure)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(figure.bbox.x0 < box.x0 and box.x1 < figure.bbox.x1 for box in boxes)
    at, axes = places(found, figure), figure.axes[0]
    curves = []
    for arrow in patches(figure, FancyArrowPatch):
        points = arrow.get_path().interpolated(20).vertices
        ends = {min(at, key=lambda n, p=p: np.hypot(*(p - at[n]))) for p in (points[0], points[-1])}
        for other in set(at) - ends:
            assert np.hypot(*(points - at[other]).T).min() > 0.36
            assert not any(
                box.contains(*point)
                for point in axes.transData.transform(points)
                for box in boxes[-len(at) :]
                if box.contains(*axes.transData.transform(at[other]))
            )
        curves.append(points)
    for one, other in combinations(curves, 2):  # no arrow runs along another
        apart = np.hypot(*(one[:, None] - other[None]).T).min(0)
        assert np.median(apart) > 0.1


def test_exports_show_halves_factors_and_both_sizes(constrained: PlateDiagram) -> None:
    sizes = "data: 7 with y, y_again", "data: 17 with consistency, aggregate"
    dot, tikz, svg = constrained.to_dot(), constrained.to_tikz(), io.StringIO()
    constrained.draw().savefig(svg, format="svg")
    assert all(size in svg.getvalue() for size in sizes)
    assert rf'label="{sizes[0]}\n{sizes[1]}"' in dot
    assert '"y" [style="filled", fillcolor="lightgrey;0.5:white"];' in dot
    assert '"consistency" [shape=square, style=filled, fillcolor=black' in dot
    assert '"z" -> "consistency" [dir=none];' in dot
    assert '"aggregate" -> "z" [dir=none];' in dot  # left of z, as in the drawing
    assert '{rank=same; "x"; "y"; "y_again"}' in dot
    assert all(size.replace("_", r"\_") in tikz for size in sizes)
    assert r"\node[partly] (y)" in tikz
    assert "path picture=" in tikz
    assert r"\node[factor] (consistency)" in tikz
    assert r"\draw[] (z) to[] (consistency);" in tikz
    assert r"\draw[rounded corners] ([xshift=2mm, yshift=0mm]plate data.south west)" in tikz


def test_one_run_shows_no_halves_factors_or_cards(make_m2, x: Tensor) -> None:
    model = make_m2()
    found = plate_diagram(model, x)
    figure = found.draw()
    assert not patches(figure, Wedge)
    assert not patches(figure, PathPatch)
    assert "0.5:white" not in found.to_dot()
    assert r"\node[partly]" not in found.to_tikz()
    assert r"\draw[rounded corners]" not in found.to_tikz()
