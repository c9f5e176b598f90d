"""Which modules programs reach, whatever holds them, and under which names."""

import enum
import functools
import itertools
import logging
import sys
import threading
import types
import weakref
from dataclasses import dataclass
from typing import ClassVar
from unittest import mock

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.transforms import AffineTransform, Planar
from torch import nn

from pyrovae.programs import Pair
from pyrovae.programs.reach import modules_of, named_modules, owners_of

NET, OTHER = nn.Linear(1, 1), nn.Linear(1, 2)
NETS = types.ModuleType("nets_of_a_user")
NETS.decoder, NETS.other = nn.Linear(1, 3), nn.Linear(1, 4)
STATE = types.SimpleNamespace(decoder=nn.Linear(1, 5), other=nn.Linear(1, 6))


def program(x):
    return NET(x)


def in_another_function(x):
    return [program(each) for each in x]


def with_attributes_of_the_same_name(x):
    return x.OTHER + NET(x)


def with_an_assertion(x):
    assert NET(x) is not None  # here pytest puts code of its own


def of_a_python_module(x):
    return NETS.decoder(x)


def of_a_namespace(x):
    return STATE.decoder(x)


@dataclass(slots=True)
class Holder:
    net: nn.Module

    def model(self, x):
        return self.net(x)

    def __call__(self, x):
        return self.model(x)


class Shared:
    nets: ClassVar = {"decoder": NET}

    @property
    def net(self):
        return self.nets["decoder"]

    @classmethod
    def model(cls, x):
        return cls().net(x)

    @staticmethod
    def guide(x):
        return OTHER(x)


class Unregistered(nn.Module):
    def __init__(self, *nets):
        super().__init__()
        self.nets, self.own = list(nets), nn.Sequential(nn.Linear(1, 1), nn.Dropout())

    def model(self, x):
        return self.nets[0](self.own(x))


class Parent(nn.Module):
    """Holds a module that has a reference to its parent, hidden from torch in a tuple."""

    def __init__(self):
        super().__init__()
        self.child = nn.Linear(1, 1)
        self.child.parent = (self,)


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


def in_closure():
    net, nets = NET, {"a": [OTHER]}
    return lambda x: (lambda z: net(z) + nets["a"][0](z))(x)


def with_attribute():
    def run(x):
        return run.net(x)

    run.net = NET
    return run


def behind_a_weak_reference():
    reference = weakref.ref(NET)
    return lambda x: reference()(x)


def in_a_distribution():
    flow = dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0), [AffineTransform(0, 1), PLANAR])
    return lambda x: flow.sample()


PLANAR = Planar(2)
UNREGISTERED = Unregistered(NET)
PROGRAMS = {
    "global": (program, {"NET": NET}),
    "function of a function": (in_another_function, {"NET": NET}),
    "attribute of the same name": (with_attributes_of_the_same_name, {"NET": NET}),
    "assertion": (with_an_assertion, {"NET": NET}),
    "python module": (of_a_python_module, {"NETS.decoder": NETS.decoder}),
    "namespace": (of_a_namespace, {"STATE.decoder": STATE.decoder}),
    "closure": (in_closure(), {"net": NET, "nets.a.0": OTHER}),
    "default": (lambda x, net=NET, *, other=OTHER: net(x) + other(x), {"net": NET, "other": OTHER}),
    "partial": (functools.partial(lambda f, x, net: f(x), OTHER, net=NET), {"args.0": OTHER, "net": NET}),
    "object": (Holder(NET), {"net": NET}),
    "method of an object": (Holder(NET).model, {"net": NET}),
    "method of a class": (Shared.model, {"nets.decoder": NET, "OTHER": OTHER}),
    "function attribute": (with_attribute(), {"net": NET}),
    "no gradients": (torch.no_grad()(program), {"NET": NET}),
    "cached": (functools.lru_cache(program), {"NET": NET}),
    "decorated": (decorated(program), {"NET": NET}),
    "handled": (poutine.scale(poutine.block(program), scale=2.0), {"NET": NET}),
    "weak": (behind_a_weak_reference(), {"reference": NET}),
    "distribution": (in_a_distribution(), {"flow.transforms.1": PLANAR}),
    "module": (NET, {"0": NET}),
    "method of a module": (NET.forward, {"0": NET}),
    "handled method": (poutine.scale(NET.forward, scale=2.0), {"0": NET}),
    "partial of a decorated method": (functools.partial(decorated(NET.forward)), {"0": NET}),
    "list in a module": (UNREGISTERED.model, {"0": UNREGISTERED, "nets.0": NET}),
    "lambda of a method": (
        lambda x: UNREGISTERED.model(x), {"UNREGISTERED": UNREGISTERED, "UNREGISTERED.nets.0": NET},
    ),
    "nothing": (lambda x: x, {}),
}  # fmt: skip


@pytest.mark.parametrize(("program", "modules"), PROGRAMS.values(), ids=PROGRAMS)
def test_modules_are_found_wherever_a_program_has_them(program, modules):
    found = named_modules(program)
    assert found.keys() == modules.keys()
    assert all(found[name] is module for name, module in modules.items())
    assert modules_of(Pair(program, program)) == list(found.values())


def test_a_part_of_a_found_module_is_not_found_again():
    whole = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    part = whole[1]
    assert named_modules(lambda x: whole(part(x))) == {"whole": whole}
    parent = Parent()
    assert named_modules(lambda x: parent.child(x)) == {"parent": parent}


def test_owners_come_first_and_names_are_unique():
    net, nets, guide = nn.Linear(1, 1), [nn.Linear(1, 2)], Unregistered(nn.Linear(1, 1))

    def model(x):
        return net(nets[0](x))

    found = named_modules(Pair(model, guide.model))
    assert list(found) == ["0", "net", "nets.0", "nets.0 (2)"]
    assert found["0"] is guide
    assert owners_of(Pair(model, guide.model)) == [guide]


def test_a_large_list_is_not_searched_to_its_end():
    numbers, net = [{} for _ in range(10**6)], nn.Linear(1, 1)
    assert named_modules(lambda x: net(x) + len(numbers)) == {"net": net}


def test_circles_end():
    circle = [nn.Linear(1, 1)]
    circle.append(circle)
    assert named_modules(lambda x: circle[0](x)) == {"circle.0": circle[0]}


def test_the_search_runs_no_property():
    class Touchy:
        @property
        def net(self):
            raise AssertionError

    touchy = Touchy()
    assert named_modules(lambda x: touchy.net(x)) == {}


def test_a_library_model_is_all_that_its_pair_reaches(make_vae, make_m2, make_cpcvae, make_m1m2, make_ppca):
    for make in (make_vae, make_m2, make_cpcvae, make_m1m2, make_ppca):
        model = make()
        assert named_modules(model) == {"0": model}


def test_a_python_module_of_a_library_is_not_entered(monkeypatch):
    monkeypatch.setattr(torch, "net_of_nobody", nn.Linear(1, 1), raising=False)
    monkeypatch.setattr(sys.modules[__name__], "NET", torch)
    assert named_modules(lambda x: torch.net_of_nobody(x)) == {}


def dead_proxy():
    return weakref.proxy(nn.ReLU())


def test_odd_objects_do_not_stop_the_search():
    net = nn.Linear(1, 1)

    class Refusing:
        def __getattr__(self, name):
            raise RuntimeError(name)

    class Equal:
        __slots__ = ("a", "b")

        def __init__(self):
            self.a = 1

        def __eq__(self, other):
            raise RuntimeError

        __hash__ = None

    odd = [
        *(dead_proxy(), Refusing(), Equal(), mock.MagicMock(), np.array([None, {}]), (x for x in [])),
        *(iter([]), Ellipsis, threading.Lock(), logging.getLogger(), torch.Generator(), object(), type),
        *(torch.ops.aten, enum.Enum("E", "a"), itertools.count(), sys, dist.Normal(0, 1)),
        *(weakref.WeakKeyDictionary(), net),
    ]
    found = named_modules(lambda x: odd)
    assert found == {"odd.19": net}
