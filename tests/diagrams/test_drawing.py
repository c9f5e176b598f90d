"""Drawings of plate diagrams: shapes, places, arrows."""

from collections.abc import Callable

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from plate_programs import (
    VAE,
    nested_model,
    overlapping_model,
    pca_model,
    rows,
)
from torch import Tensor

from pyrovae.diagrams import PlateDiagram, plate_diagram


@pytest.fixture
def x() -> Tensor:
    return rows()


def circles(figure: Figure) -> list[Circle]:
    return [patch for patch in axes(figure).patches if isinstance(patch, Circle)]


def axes(figure: Figure) -> Axes:
    return figure.axes[0]


def styles(figure: Figure) -> list[str]:
    arrows = [patch for patch in axes(figure).patches if isinstance(patch, FancyArrowPatch)]
    return [str(arrow.get_linestyle()) for arrow in arrows]


def test_vae_is_drawn_with_one_solid_and_one_dashed_arrow(diagram: PlateDiagram) -> None:
    figure = diagram.draw()
    assert sorted(styles(figure)) in (["-", "--"], ["dashed", "solid"])
    assert axes(figure).get_legend() is not None
    assert "data: 6" in [text.get_text() for text in axes(figure).texts]
    z, observed = circles(figure)
    assert z.center[1] > observed.center[1]  # generative order runs downwards
    assert z.get_facecolor()[:3] == (1, 1, 1)
    assert observed.get_facecolor()[0] < 0.95


def test_no_legend_without_guide(x: Tensor) -> None:
    figure = plate_diagram(VAE().model, x).draw()
    assert axes(figure).get_legend() is None
    assert len(styles(figure)) == 1


@pytest.mark.parametrize(
    "model", [pca_model, nested_model, overlapping_model], ids=["pca", "nested", "overlapping"]
)
def test_no_overlap_and_plates_hold_their_members_only(model: Callable[[Tensor], None], x: Tensor) -> None:
    data = torch.rand(3, 4) if model is overlapping_model else x
    found = plate_diagram(model, data)
    figure = found.draw()
    drawn = dict(zip(found.nodes, circles(figure), strict=True))
    centres = torch.tensor([circle.center for circle in drawn.values()])
    apart = torch.cdist(centres, centres) + 10 * torch.eye(len(centres))
    assert apart.min() > 2 * next(iter(drawn.values())).radius
    radius = next(iter(drawn.values())).radius
    frames = [patch for patch in axes(figure).patches if isinstance(patch, FancyBboxPatch)]
    touched = {
        frozenset(name for name, circle in drawn.items() if meets(frame, circle.center, radius))
        for frame in frames
    }
    assert touched == {frozenset(found.members(plate)) for plate in found.plates}
    assert len(frames) == len(found.plates)


def meets(frame: FancyBboxPatch, centre: tuple[float, float], radius: float) -> bool:
    x, y = centre[0] - frame.get_x(), centre[1] - frame.get_y()
    width, height = frame.get_width(), frame.get_height()
    return -radius < x < width + radius and -radius < y < height + radius


def test_draws_into_given_axes(diagram: PlateDiagram) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert diagram.draw(right) is figure
    assert not left.patches
    assert right.patches


def test_draws_into_a_subfigure(diagram: PlateDiagram) -> None:
    figure = Figure()
    part, _ = figure.subfigures(1, 2)
    assert diagram.draw(part.subplots()) is figure


def test_a_program_without_sites_is_drawn_empty() -> None:
    assert not circles(plate_diagram(lambda: None).draw())


def test_arrows_back_and_forth_bend_apart(diagram: PlateDiagram) -> None:
    """Seen from above, z -> x passes on one side and the dashed arrow on the other."""
    figure = diagram.draw()
    arrows = [patch for patch in axes(figure).patches if isinstance(patch, FancyArrowPatch)]
    (down, _), (up, _) = (arrow.get_path().vertices[1] for arrow in arrows)  # control points
    assert abs(down - up) > 0.2
