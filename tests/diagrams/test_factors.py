"""Factors in plate diagrams."""

import pyro
import pyro.distributions as dist
import torch
from partly_labelled import statuses
from torch import Tensor

from pyrovae.diagrams import PlateDiagram, plate_diagram
from pyrovae.programs.pair import Pair


def test_constraints_are_factors(constrained: PlateDiagram) -> None:
    expected = {("z", "consistency"), ("z", "aggregate"), ("z", "y_again"), ("y", "y_again")}
    assert constrained.factor_edges == expected
    assert constrained.nodes["consistency"].distribution == ""
    assert not constrained.nodes["consistency"].observed


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
