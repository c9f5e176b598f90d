"""Reading a diagram changes no module, no random state and no parameter store."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from plate_programs import (
    VAE,
    rows,
)
from torch import Tensor, nn

from pyrovae.diagrams import plate_diagram
from pyrovae.programs.pair import Pair


@pytest.fixture
def x() -> Tensor:
    return rows()


@pytest.mark.parametrize("as_function", [False, True])
def test_modules_and_random_state_stay(x: Tensor, as_function: bool) -> None:
    vae = VAE()
    vae.decoder.eval()  # a mixture of modes must survive
    modes = [part.training for part in vae.modules()]
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    model, guide = vae.model, vae.guide
    if as_function:  # nothing tells beforehand which modules these will call
        model, guide = (lambda x: vae.model(x)), (lambda x: vae.guide(x))
    random_state = torch.get_rng_state()
    plate_diagram(Pair(model, guide), x)
    assert [part.training for part in vae.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(type(value) is nn.Parameter for value in vae.parameters())


def test_modes_return_when_a_program_fails(x: Tensor) -> None:
    vae = VAE()
    with pytest.raises(RuntimeError):
        plate_diagram(vae, x[:, :-1])
    assert all(part.training for part in vae.modules())


def test_parameter_store_stays(x: Tensor) -> None:
    def model(x: Tensor) -> None:
        pyro.param("new", torch.ones(()))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("old", torch.zeros(())), 1.0), obs=x)

    store = pyro.get_param_store()
    with store.scope():
        kept = pyro.param("old", torch.tensor(3.0))
        plate_diagram(model, x[:, 0])
        plate_diagram(VAE().model, x)
        assert set(store.keys()) == {"old"}
        assert store.get_param("old") is kept


def test_module_keeps_its_parameters_beside_another_of_the_same_name(x: Tensor) -> None:
    with pyro.get_param_store().scope():
        pyro.module("vae", VAE())
        vae = VAE()
        before = [value.clone() for value in vae.parameters()]
        plate_diagram(vae, x)
        assert all(map(torch.equal, before, vae.parameters()))
