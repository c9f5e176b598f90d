"""The device of a pair, read off its modules and parameters. The device "meta" stands for a GPU."""

import pyro
import pytest
import torch
from torch import nn

from pyrovae.programs import Pair
from pyrovae.programs.devices import device_for, device_of

META, CPU = torch.device("meta"), torch.device("cpu")


def functions(net):
    return Pair(lambda x: net(x), lambda x: x)


class Owner(nn.Module):
    def __init__(self, device=None):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, device=device))

    def model(self, x):
        return x

    guide = model


@pytest.mark.parametrize("net", [nn.Linear(1, 1, device="meta"), Owner("meta")])
def test_functions_are_where_their_modules_are(net):
    assert device_of(functions(net)) == META
    assert device_for("auto", functions(net), otherwise="cpu") == META
    assert device_for("cpu", functions(net), otherwise="meta") == CPU


def test_functions_without_modules_are_where_their_parameters_are(param_store):
    def model(x):
        return pyro.param("loc", torch.zeros(1)) + x

    pair = Pair(model, lambda x: x)
    pyro.param("of another program", torch.zeros(1))
    assert device_of(pair, otherwise="meta") == META
    assert device_for("auto", pair, otherwise="meta") == META
    pyro.param("loc", torch.zeros(1))
    assert device_of(pair, otherwise="meta") == CPU
    assert device_for("auto", pair, otherwise="meta") == CPU


def test_owners_go_before_modules_in_reach():
    owner, other = Owner(), nn.Linear(1, 1, device="meta")
    pair = Pair(lambda x: other(x), owner.guide)
    assert device_of(pair) == CPU
    assert device_for("auto", pair, otherwise="meta").type in ("cpu", "cuda")


def test_modules_without_tensors_have_no_device():
    assert device_of(functions(nn.Dropout()), otherwise="meta") == META
