"""Merging the diagrams of several runs."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.patches import FancyBboxPatch, PathPatch
from partly_labelled import statuses
from torch import Tensor

from pyrovae.diagrams import PlateDiagram, merge_diagrams, plate_diagram
from pyrovae.errors import InputError


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
        (normal_model(names="ab"), normal_model(names="ba"), "their .* cycle, . -> . -> ."),
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
