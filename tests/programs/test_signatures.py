"""The parameters that a program shows, also within Pyro's handlers."""

import functools

import pytest
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import nn

from pyrovae.programs.classes import takes_classes
from pyrovae.programs.signatures import parameters_of


def program(x, y=None, *, c=None):
    pass


class Module(nn.Module):
    def forward(self, x, y=None, *, c=None):
        pass

    def model(self, x, y=None, *, c=None):
        pass


HANDLED = {
    "a function": program,
    "a method": Module().model,
    "a module": Module(),
    "a handler's function": poutine.scale(program, scale=2.0),
    "a handler that is called": poutine.scale(scale=2.0)(program),
    "two handlers": poutine.mask(mask=True)(Messenger()(Module().model)),
    "a handled module": Messenger()(Module()),
}


@pytest.mark.parametrize("handled", HANDLED.values(), ids=HANDLED)
def test_the_parameters_are_those_of_the_program_within(handled):
    assert list(parameters_of(handled)) == ["x", "y", "c"]
    assert takes_classes(handled)


@pytest.mark.parametrize("handled", HANDLED.values(), ids=HANDLED)
def test_what_is_bound_is_no_parameter(handled):
    assert list(parameters_of(functools.partial(handled, torch.zeros(2)))) == ["y", "c"]


def test_a_builtin_shows_none():
    assert parameters_of(type) is None
