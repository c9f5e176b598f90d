"""Labelled and unlabelled data in one plate diagram."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from partly_labelled import EXPECTED, LABELLED, UNLABELLED, every_pair, statuses
from torch import Tensor

from pyrovae.diagrams import PlateDiagram, plate_diagram
from pyrovae.errors import InputError
from pyrovae.programs.pair import Pair


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
    (first, given), _, (second, absent), _ = calls  # a model runs twice
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
