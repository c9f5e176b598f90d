"""Programs of the user's own: functions, pyro.param and pyro.module."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from training_helpers import X_SHAPE, AtCall, same, snapshot

from pyrovae.errors import InputError
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.programs.pair import Pair
from pyrovae.training import fit

pytestmark = pytest.mark.cpu


def test_a_pair_of_functions_trains_by_pyro_module_and_pyro_param(param_store, binary_images):
    decoder = MLP(2, X_SHAPE, hidden=(8,))

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(2))
        scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    before = snapshot(decoder)
    history = fit(Pair(model, guide), binary_images, epochs=30, progress=False)
    assert history["elbo"][-1] > history["elbo"][0]
    assert not torch.equal(decoder.state_dict()["layers.0.weight"], before["layers.0.weight"])
    assert not torch.equal(param_store["scale"], torch.ones(2))
    assert (param_store["scale"] > 0).all()


def test_the_functions_parameters_are_saved_and_resumed(param_store, binary_images, tmp_path):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(16), 1.0).to_event(1))
            logits = pyro.param("slope", torch.ones(16)) * z
            pyro.sample("x", dist.Bernoulli(logits=logits.unflatten(-1, X_SHAPE)).to_event(3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(16)), 1.0).to_event(1))

    fit(Pair(model, guide), binary_images, epochs=6, progress=False, folder=tmp_path / "whole")
    whole = {name: value.detach().clone() for name, value in param_store.items()}
    param_store.clear()
    fit(Pair(model, guide), binary_images, epochs=2, progress=False, folder=tmp_path / "parts")
    param_store.clear()
    fit(Pair(model, guide), binary_images, epochs=6, progress=False, folder=tmp_path / "parts", resume=True)
    assert same(whole, {name: value.detach() for name, value in param_store.items()})


def test_what_functions_have_learned_before_an_error_is_kept(param_store, binary_images):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = pyro.param("loc", lambda: torch.zeros(X_SHAPE)) + z[:, None, None, None]
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("q", torch.tensor(0.1)), 1.0))

    def interrupt(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            Pair(model, guide),
            binary_images,
            epochs=2,
            batch_size=10,
            progress=False,
            transform=AtCall(8, interrupt),
        )
    assert param_store["loc"].abs().min() > 0


def test_modules_that_functions_use_are_trained_and_need_not_be_shown_to_pyro(binary_images):
    decoder = MLP(2, X_SHAPE, hidden=())

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=x)

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.posteriors = [DiagonalNormal(MLP(X_SHAPE, 6, hidden=()), 2)]  # not registered

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", self.posteriors[0](x))

    guide = Guide()
    before = snapshot(decoder), snapshot(guide.posteriors[0])
    fit(Pair(model, guide), binary_images, epochs=1, progress=False)
    for module, state in zip((decoder, guide.posteriors[0]), before, strict=True):
        assert not any(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def normalised_pair():
    """Functions whose networks have running statistics, one of them with no parameters at all."""
    torch.manual_seed(0)
    nets = {
        "encoder": nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 2)),
        "scaling": nn.BatchNorm1d(16, affine=False),
    }

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = pyro.param("mean", torch.zeros(16)) + nets["scaling"](x.flatten(1)).detach()
            pyro.sample("x", dist.Normal(mean.view(x.shape), 1.0).to_event(3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(nets["encoder"](x), 1.0).to_event(1))

    return Pair(model, guide), nets


def test_buffers_of_modules_behind_functions_are_saved_and_resumed(param_store, binary_images, tmp_path):
    pair, whole = normalised_pair()
    settings = {"batch_size": 10, "progress": False}
    fit(pair, binary_images, epochs=4, folder=tmp_path / "whole", **settings)
    assert whole["scaling"].num_batches_tracked == 4 * 3
    param_store.clear()
    fit(normalised_pair()[0], binary_images, epochs=2, folder=tmp_path / "parts", **settings)
    param_store.clear()
    pair, resumed = normalised_pair()
    fit(pair, binary_images, epochs=4, folder=tmp_path / "parts", resume=True, **settings)
    for name, net in whole.items():
        assert same(net.state_dict(), resumed[name].state_dict())


def test_the_best_epochs_buffers_return_behind_functions(param_store, binary_images):
    pair, nets = normalised_pair()
    uphill = partial(torch.optim.SGD, lr=0.05, maximize=True)
    settings = {"epochs": 3, "batch_size": 12, "optimizer": uphill, "progress": False}
    history = fit(pair, binary_images, validation=binary_images, **settings)
    assert history.best_epoch == 1
    assert nets["scaling"].num_batches_tracked == 2


def test_parameters_that_no_module_holds_are_refused(binary_images, tmp_path, param_store):
    weight = torch.zeros(2, 16, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=(z @ weight).view(x.shape)).to_event(3), obs=x)

    def fixed_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(InputError, match=r"no parameter to train.*use pyro\.param"):
        fit(Pair(model, fixed_guide), binary_images, folder=tmp_path / "run")

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(2)), 1.0).to_event(1))

    with pytest.raises(InputError, match=r"1 parameters .*\(2, 16\).*pyro\.param"):
        fit(Pair(model, guide), binary_images, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()

    def shown(x):
        pyro.param("weight", weight)
        model(x)

    fit(Pair(shown, guide), binary_images, epochs=1, progress=False)
    assert weight.abs().min() > 0


class Transposed(nn.Module):
    """x ~ N(W a x, 1) by a product whose gradient for W comes transposed in memory."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 4))
        self.register_buffer("a", torch.randn(3, 4))

    def model(self, x):
        loc = torch.bmm((x @ self.a)[None], self.weight[None].mT)[0]
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x):
        pass


def test_adam_sees_each_gradient_at_its_own_weight():
    x, pair = torch.randn(20, 3), Transposed()
    fit(pair, x, epochs=1, batch_size=20, progress=False, device="cpu")
    gradient = -x.T @ (x @ pair.a)
    assert torch.allclose(pair.weight, -1e-3 * gradient.sign(), atol=1e-6)  # Adam's first step
