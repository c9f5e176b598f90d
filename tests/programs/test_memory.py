"""What programs remember in Python is found where users keep it, and library code is left out."""

import functools
import itertools
import random
import types
from dataclasses import dataclass

import numpy as np
import pyro
import pytest
import torch

from pyrovae.programs import memory
from pyrovae.programs.memory import changes, remembered
from pyrovae.programs.pair import Pair

LEVEL = {"high": 1.5}


@dataclass
class Config:
    tau: float = 0.25


class Module(torch.nn.Module):
    rate = 0.125

    def __init__(self):
        super().__init__()
        self.part = torch.nn.Linear(1, 1)
        self.config, self.flags = Config(), {"on": True, (1, 2): "b"}

    def model(self, x, scale=0.375):
        return LEVEL["high"] * x * scale

    @staticmethod
    def helper(x):
        return other(x)


def other(x):
    return np.float64(x) + NESTED


NESTED = np.arange(3)


def test_values_are_found_by_their_paths():
    module = Module()
    found = remembered(model=module.model)
    expected = {
        "model.config.tau": 0.25,
        "model.flags.on": True,
        "model.flags.(1, 2)": "b",
        "model.part.in_features": 1,
        "model.part.weight": id(module.part.weight),
        "scale": 0.375,
        "rate": 0.125,
        "LEVEL.high": 1.5,
        "NESTED": NESTED.tobytes(),
    }
    assert {path: found[path] for path in expected} == expected


def test_closures_partials_and_pyros_handlers_are_looked_into():
    tau, weight = 0.5, 2.0

    def model(x, factor):
        inner = lambda: factor * weight  # noqa: E731
        return inner() * tau

    handled = pyro.poutine.scale(functools.partial(model, factor=3.0), scale=0.75)
    values = remembered(model=handled).values()
    assert {0.5, 2.0, 3.0, 0.75} <= set(values)


@pytest.mark.parametrize(
    "generator",
    [
        random.Random(0),
        np.random.default_rng(0),
        np.random.RandomState(0),
        torch.Generator(),
        itertools.count(),
    ],
    ids=lambda generator: type(generator).__name__,
)
def test_generators_are_states(generator):
    def program():
        return generator

    def draw():
        if isinstance(generator, torch.Generator):
            torch.rand((), generator=generator)
        else:
            (getattr(generator, "random", None) or generator.__next__)()

    before = remembered(program=program)
    assert changes(before, remembered(program=program)) == []
    draw()
    assert changes(before, remembered(program=program)) == ["generator"]


def test_changes_are_named_but_for_those_of_tensors():
    holder = types.SimpleNamespace(n=1, gone="a", tensor=torch.zeros(1))
    before = remembered(it=holder)
    holder.n, holder.new, holder.tensor = 2, None, torch.zeros(1)
    del holder.gone
    after = remembered(it=holder)
    assert before["it.tensor"] != after["it.tensor"]
    assert changes(before, after) == ["it.n", "it.new", "it.gone"]


def test_a_library_models_programs_remember_nothing_that_a_run_changes(make_m2, binary_images):
    m2 = make_m2()
    pair = Pair(m2.model, m2.guide)
    before = remembered(model=pair.model, guide=pair.guide)
    assert len(before) < 500
    with pyro.poutine.block():
        m2.guide(binary_images.double())
    assert remembered(model=pair.model, guide=pair.guide) == before


def test_values_near_to_the_programs_come_before_those_of_long_lists(monkeypatch):
    monkeypatch.setattr(memory, "MOST_OBJECTS", 100)
    long, tau = [[number] for number in range(1000)], 0.5
    found = remembered(program=lambda: (long, tau))
    assert found["tau"] == 0.5
    assert len(found) < 100


def test_what_contains_itself_is_looked_at_once():
    ring = [1]
    ring.append(ring)
    assert remembered(ring=ring) == {"ring.0": 1}
