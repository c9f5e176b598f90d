"""A vanilla diagram, diagrams of partly labelled data, and their data."""

import pytest
from plate_programs import VAE, rows
from torch import Tensor

from pyrovae.diagrams import PlateDiagram, plate_diagram
from pyrovae.programs.pair import Pair


@pytest.fixture
def diagram() -> PlateDiagram:
    return plate_diagram(VAE(), rows())


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
