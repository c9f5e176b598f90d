"""Drawings of plate diagrams: shapes, places, arrows."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
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
from pyrovae.diagrams.bends import arc
from pyrovae.diagrams.layout import lay_out


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


def mixture(x: Tensor) -> None:
    """Arrows leave the plates of the components downwards."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("components", 3):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        k = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(locs[k], 1.0), obs=x)


def topics(x: Tensor) -> None:
    with pyro.plate("topics", 3):
        words_of = pyro.sample("topic_words", dist.Dirichlet(torch.ones(5)))
    with pyro.plate("documents", len(x)):
        topics_of = pyro.sample("doc_topics", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("words", x.shape[1], dim=-2):
            topic = pyro.sample("topic", dist.Categorical(topics_of))
            pyro.sample("word", dist.Categorical(words_of[topic]), obs=x.T)


@pytest.mark.parametrize(
    ("model", "data"),
    [(mixture, torch.zeros(6)), (topics, torch.zeros(4, 2)), (nested_model, rows())],
    ids=["mixture", "topics", "nested"],
)
def test_no_arrow_runs_through_the_caption_of_a_plate(
    model: Callable[[Tensor], None], data: Tensor
) -> None:
    found = plate_diagram(model, data)
    figure, layout = found.draw(), lay_out(found)
    figure.draw_without_rendering()
    captions = [text for text in axes(figure).texts if ": " in text.get_text()]
    assert len(captions) == len(found.plates)
    to_page = axes(figure).transData.transform
    for arrow in layout.arrows:
        points = to_page(arc(layout.centres[arrow.start], layout.centres[arrow.end], arrow.bend, 200))
        for caption in captions:
            box = caption.get_window_extent()
            assert not any(box.contains(*point) for point in points), (arrow, caption)
    boxes = [caption.get_window_extent() for caption in captions]
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[:n])


def test_long_names_stay_inside_of_their_circles(x: Tensor) -> None:
    names = ["w_unconstrained", "AutoLowRankMultivariateNormal_latent", "x", "bias"]

    def model(x: Tensor) -> None:
        for name in names:
            pyro.sample(name, dist.Normal(0.0, 1.0))

    figure = plate_diagram(model, x).draw()
    figure.draw_without_rendering()
    to_page = axes(figure).transData.transform
    for circle, label in zip(circles(figure), axes(figure).texts, strict=True):
        middle, rim = to_page([circle.center, (circle.center[0] + circle.radius, circle.center[1])])
        box = label.get_window_extent()
        corners = torch.tensor(box.corners()) - torch.tensor(middle)
        assert corners.norm(dim=1).max() < rim[0] - middle[0], label.get_text()
