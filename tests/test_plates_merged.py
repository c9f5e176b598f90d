"""Labelled and unlabelled data in one plate diagram, and factors."""

import io
from collections.abc import Callable
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, PathPatch, Polygon, Rectangle, Wedge
from torch import Tensor

from pyrovae.diagrams.diagram import PlateDiagram, merge_diagrams, plate_diagram
from pyrovae.errors import InputError
from pyrovae.programs.pair import Pair

LABELLED, UNLABELLED = 7, 17

# Of each program: generative edges, factors' edges, inference edges with and without labels, and what is
# observed or a factor, with and without labels.
M2 = SimpleNamespace(
    p={("y", "x"), ("z", "x")},
    labelled={("x", "z"), ("y", "z")},
    unlabelled={("x", "y"), ("x", "z"), ("y", "z")},
    statuses={"y": "partly", "z": "latent", "x": "observed"},
    sizes=["7 with y", "17 without y"],
)
M1M2 = SimpleNamespace(
    p={("y", "z1"), ("z2", "z1"), ("z1", "x")},
    labelled={("x", "z1"), ("z1", "z2"), ("y", "z2")},
    unlabelled={("x", "z1"), ("z1", "y"), ("z1", "z2"), ("y", "z2")},
    statuses={"y": "partly", "z2": "latent", "z1": "latent", "x": "observed"},
    sizes=["7 with y", "17 without y"],
)
PCVAE = SimpleNamespace(
    p={("z", "x"), ("z", "y")},
    labelled={("x", "z")},
    unlabelled={("x", "z")},
    statuses={"z": "latent", "x": "observed", "y": "partly"},
    sizes=["7 with y", "17 without y"],
)
CONSTRAINED = SimpleNamespace(
    p={("z", "x"), ("z", "y")},
    labelled={("x", "z")},
    unlabelled={("x", "z")},
    statuses=PCVAE.statuses | dict.fromkeys(("y_again", "consistency", "aggregate"), "factor"),
    sizes=["7 with y, y_again", "17 with consistency, aggregate"],
)
EXPECTED = {"M2": M2, "M1M2": M1M2, "PCVAE": PCVAE, "constrained CPCVAE": CONSTRAINED}


@pytest.fixture
def pair(request: pytest.FixtureRequest, make_m2, make_m1m2, make_cpcvae) -> Pair:
    """The model and the guide of that name."""
    name = request.param
    model = {"M2": make_m2, "M1M2": make_m1m2}.get(name, make_cpcvae)()
    return Pair(model.constrained_model if "constrained" in name else model.model, model.guide)


@pytest.fixture
def x(binary_images: Tensor) -> Tensor:
    return binary_images.double()


@pytest.fixture
def y(classes: Tensor) -> Tensor:
    """Seven data have their class."""
    y = classes.clone()
    y[::2] = -1
    y[14:] = -1
    return y


@pytest.fixture
def m2(make_m2, x, y) -> PlateDiagram:
    model = make_m2()
    return plate_diagram(model, x, y)


@pytest.fixture
def constrained(make_cpcvae, x, y) -> PlateDiagram:
    model = make_cpcvae()
    return plate_diagram(Pair(model.constrained_model, model.guide), x, y)


def statuses(diagram: PlateDiagram) -> dict[str, str]:
    return {name: node.status for name, node in diagram.nodes.items()}


every_pair = pytest.mark.parametrize(("pair", "name"), [(n, n) for n in EXPECTED], indirect=["pair"])


# ---------------------------------------------------------------- what is read off


@every_pair
def test_some_labels(pair: Pair, name: str, x: Tensor, y: Tensor) -> None:
    found, expected = plate_diagram(pair, x, y), EXPECTED[name]
    assert statuses(found) == expected.statuses
    assert found.generative_edges == expected.p
    assert found.inference_edges == expected.labelled | expected.unlabelled
    assert found.sizes("data") == expected.sizes
    assert found.plates == {"data": LABELLED + UNLABELLED}
    assert set(found.members("data")) == set(expected.statuses)
    assert [run.plates for run in found.runs] == [{"data": LABELLED}, {"data": UNLABELLED}]


@every_pair
def test_all_labels(pair: Pair, name: str, x: Tensor, classes: Tensor) -> None:
    found, expected = plate_diagram(pair, x, classes), EXPECTED[name]
    unlabelled_only = {"consistency", "aggregate"}
    given = {n: s.replace("partly", "observed") for n, s in expected.statuses.items()}
    assert statuses(found) == {n: s for n, s in given.items() if n not in unlabelled_only}
    assert found.generative_edges == expected.p
    assert found.inference_edges == expected.labelled
    assert found.sizes("data") == ["24"]
    assert found.runs == ()


@every_pair
@pytest.mark.parametrize("y_is", ["absent", "all unlabelled"])
def test_no_labels(pair: Pair, name: str, y_is: str, x: Tensor) -> None:
    args = (x,) if y_is == "absent" else (x, torch.full((len(x),), -1))
    found, expected = plate_diagram(pair, *args), EXPECTED[name]
    assert found == plate_diagram(pair, x)
    left = {n: s for n, s in expected.statuses.items() if s != "partly" and n != "y_again"}
    if name in ("M2", "M1M2"):
        left["y"] = "latent"
    assert statuses(found) == left
    assert found.generative_edges == {edge for edge in expected.p if edge[1] in left}
    assert found.inference_edges == expected.unlabelled
    assert found.sizes("data") == ["24"]


def test_constraints_are_factors(constrained: PlateDiagram) -> None:
    expected = {("z", "consistency"), ("z", "aggregate"), ("z", "y_again"), ("y", "y_again")}
    assert constrained.factor_edges == expected
    assert constrained.nodes["consistency"].distribution == ""
    assert not constrained.nodes["consistency"].observed


def test_classes_by_keyword(make_m2, x: Tensor, y: Tensor, m2: PlateDiagram) -> None:
    model = make_m2()
    assert plate_diagram(model, x, y=y) == m2
    assert plate_diagram(model, y=y, x=x) == m2


def test_as_many_labelled_as_not_are_two_sizes(make_m2, x: Tensor, classes: Tensor) -> None:
    """They are different data, so the plate has not one size that both runs confirm."""
    model = make_m2()
    classes[:12] = -1
    found = plate_diagram(model, x, classes)
    assert found.sizes("data") == ["12 with y", "12 without y"]
    assert found.plates == {"data": 24}


def test_in_words(m2: PlateDiagram, constrained: PlateDiagram) -> None:
    lines = str(m2).splitlines()
    assert lines[0] == "plate data (N = 7 with y and 17 without y): y, z, x"
    assert "partly observed y ~ Categorical" in lines
    assert "q: x -> y (dashed)" in lines
    assert "factor consistency" in str(constrained).splitlines()
    assert "y_again -- y (factor)" in str(constrained).splitlines()


def test_a_guide_that_does_not_look_at_x_has_no_such_edges(make_m2, x: Tensor, y: Tensor) -> None:
    model = make_m2()

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", model.class_prior())  # does not look at x
            pyro.sample("z", model.posterior(torch.zeros(x.shape, dtype=x.dtype), y))

    assert plate_diagram(Pair(model.model, guide), x, y).inference_edges == {("y", "z")}


def test_each_run_gets_its_rows(x: Tensor, y: Tensor) -> None:
    calls = []

    def model(x: Tensor, y: Tensor | None = None) -> None:
        calls.append((x, y))

    plate_diagram(model, x, y)
    (first, given), (second, absent) = calls
    assert torch.equal(first, x[1:14:2])
    assert torch.equal(given, y[1:14:2])
    assert torch.equal(second, x[y == -1])
    assert absent is None


def test_a_class_the_encoder_sees_adds_its_edge(make_cpcvae, x: Tensor, y: Tensor) -> None:
    model = make_cpcvae()

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            shift = 0.0 if y is None else y[:, None]
            pyro.sample("z", dist.Normal(model.posterior(x).mean + shift, 1.0).to_event(1))

    assert plate_diagram(Pair(model.model, guide), x, y).inference_edges == {("x", "z"), ("y", "z")}


def test_a_class_that_is_an_argument_where_it_is_given(x: Tensor, y: Tensor) -> None:
    """A program without p(y) where y is given: an argument in one run is a latent site in the other."""

    def model(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", dist.Categorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(y.double(), 1.0), obs=x)

    x = x.flatten(1)[:, 0]
    found = plate_diagram(model, x, y)
    assert found.nodes["y"].status == "partly"
    assert found.nodes["y"].origin == "model"
    assert found.nodes["y"].plates == ("data",)
    assert found.generative_edges == {("y", "x")}


def test_nothing_moves(make_m2, x: Tensor, y: Tensor) -> None:
    model = make_m2()
    before, random_state = y.clone(), torch.get_rng_state()
    plate_diagram(model, x, y)
    assert torch.equal(y, before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(part.training for part in model.modules())


# ---------------------------------------------------------------- bad classes, and what are none


@pytest.mark.parametrize("pair", ["M2"], indirect=True)
def test_classes_of_another_length(pair: Pair, x: Tensor, y: Tensor) -> None:
    with pytest.raises(InputError, match="24 data and 23 classes"):
        plate_diagram(pair, x, y[:-1])


@pytest.mark.parametrize("pair", ["M2"], indirect=True)
def test_classes_below_unlabelled(pair: Pair, x: Tensor, y: Tensor) -> None:
    with pytest.raises(InputError, match="go down to -3"):
        plate_diagram(pair, x, torch.where(y == 2, -3, y))


def conditional_model(x: Tensor, c: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(c.double().reshape(len(x), -1).sum(-1), 1.0), obs=x)


@pytest.mark.parametrize("condition", [torch.tensor([-1.0, 0, 1]), torch.tensor([[-1], [0], [1]])])
def test_other_conditions_are_not_taken_for_classes(condition: Tensor) -> None:
    found = plate_diagram(conditional_model, torch.zeros(3), condition)
    assert found.nodes["c"].observed
    assert found.sizes("data") == ["3"]


# ---------------------------------------------------------------- factors


def test_two_densities_of_one_datum_are_a_variable_and_a_factor() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("first", dist.Normal(z, 1.0), obs=x)
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample("second", dist.Normal(w, 1.0), obs=x)
            pyro.sample("square", dist.Normal(w, 1.0), obs=x**2)  # another datum

    found = plate_diagram(model, torch.randn(4))
    latents = {"z": "latent", "w": "latent"}
    assert statuses(found) == latents | {"first": "observed", "second": "factor", "square": "observed"}
    assert found.generative_edges == {("z", "first"), ("w", "square")}
    assert found.factor_edges == {("w", "second"), ("first", "second")}


def test_factor_of_data_parameters_and_the_guide() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)
            pyro.factor("tie", -((x - z) ** 2))
        pyro.factor("alone", torch.ones(()))

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("of the guide", z, has_rsample=True)

    found = plate_diagram(Pair(model, guide), torch.randn(4))
    assert found.generative_edges == set()
    assert found.factor_edges == {("z", "tie"), ("x", "tie"), ("z", "of the guide")}
    assert found.nodes["of the guide"].origin == "guide"
    assert found.nodes["alone"].plates == ()
    found.draw().canvas.draw()
    assert '"of the guide" -> "z" [dir=none, style=dashed]' in found.to_dot()
    assert r"\draw[dashed] (z) to[] (node 4);" in found.to_tikz()


# ---------------------------------------------------------------- merging


def normal_model(plate: str = "data", names: str = "zx", family: Any = dist.Normal) -> Callable[..., None]:
    """The second site depends on the first, the third on the second, ...; x is observed."""

    def model(x: Tensor) -> None:
        with pyro.plate(plate, len(x)):
            loc: Any = 0.0
            for name in names:
                loc = pyro.sample(name, family(loc, 1.0), obs=x if name == "x" else None)

    return model


def drawn(model: Callable[..., None], count: int = 4) -> PlateDiagram:
    return plate_diagram(model, torch.randn(count))


def test_merge_of_other_sizes() -> None:
    found = merge_diagrams(drawn(normal_model(), 4), drawn(normal_model(), 6000))
    assert found.sizes("data") == ["4", "6,000"]
    assert found.nodes == drawn(normal_model()).nodes


def test_merge_of_the_same_is_the_same() -> None:
    once = drawn(normal_model())
    twice = merge_diagrams(once, once)
    assert (twice.nodes, twice.plates, twice.sizes("data")) == (once.nodes, {"data": 4}, ["4"])


def test_merge_in_any_order_and_of_three(make_m2, x: Tensor, classes: Tensor, m2: PlateDiagram) -> None:
    labelled, unlabelled = m2.runs
    backwards = merge_diagrams(unlabelled, labelled)
    assert backwards.sizes("data") == ["17 without y", "7 with y"]
    assert (statuses(backwards), backwards.inference_edges) == (statuses(m2), m2.inference_edges)
    model = make_m2()
    more = plate_diagram(model, x, classes)
    three = merge_diagrams(m2, more)
    assert three.sizes("data") == ["7 with y", "17 without y", "24 with y"]
    assert three == merge_diagrams(labelled, unlabelled, more)


def test_a_plate_around_the_data_is_one() -> None:
    def model(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("particles", 3, dim=-2), pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    found = merge_diagrams(
        plate_diagram(model, torch.randn(4), torch.randn(4)),
        plate_diagram(model, torch.randn(4)),
    )
    assert found.sizes("particles") == ["3"]
    assert found.sizes("data") == ["4 with y", "4 without y"]
    figure = found.draw()
    outer, front = (p for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch))
    outer, front = sorted((outer, front), key=lambda box: -box.get_width())
    (card,) = (p for p in figure.axes[0].patches if type(p) is PathPatch)
    extent = card.get_path().get_extents()
    assert outer.get_y() < extent.y0 < front.get_y()
    assert outer.get_x() + outer.get_width() > extent.x1 > front.get_x() + front.get_width()


def factor_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("x", z)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (normal_model(), normal_model(plate="rows"), "'z' is in 'data' in one and in 'rows' in another"),
        (normal_model(), normal_model(family=dist.Laplace), "'z' has the distribution Normal .* Laplace"),
        (normal_model(), factor_model, "'x' is a factor in one and a variable in another"),
        (normal_model(names="ab"), normal_model(names="ba"), "their .* a circle, . -> . -> ."),
    ],
)
def test_contradictions_are_refused(one: Any, other: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"contradict each other: {message}"):
        merge_diagrams(drawn(one), drawn(other))


def test_a_site_outside_of_the_plate_in_one_run() -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(InputError, match="'z' is in 'data' in one and in no plate in another"):
        merge_diagrams(drawn(normal_model()), drawn(model))


def test_merge_needs_two_diagrams() -> None:
    with pytest.raises(InputError, match="two or more plate diagrams to merge, got 1"):
        merge_diagrams(drawn(normal_model()))
    with pytest.raises(InputError, match="got a function"):
        merge_diagrams(drawn(normal_model()), normal_model())  # type: ignore[arg-type]


# ---------------------------------------------------------------- renderings


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
