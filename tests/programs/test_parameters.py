"""The parameters of a pair, and Pyro's parameter store, beside Pyro's own SVI.

With `TraceMeanField_ELBO` the loss of these programs is not random, since their latents do not reach the
data. So `fit` and SVI must take the same steps, up to rounding.
"""

import copy
import pickle
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

from pyrovae import fit
from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.programs import Pair
from pyrovae.programs.parameters import named_parameters, optional_parameters, own_parameters

pytestmark = pytest.mark.cpu

STEPS, RATE = 5, 0.1
sgd = partial(torch.optim.SGD, lr=RATE)


@pytest.fixture
def x():
    return torch.linspace(-1.0, 3.0, 8)[:, None]


def normal(name, loc, scale, **kwargs):
    return pyro.sample(name, dist.Normal(loc, scale).to_event(1), **kwargs)


def trained(pair, x, **settings):
    settings = {"objective": TraceMeanField_ELBO(), "progress": False} | settings
    return fit(pair, x, epochs=STEPS, batch_size=len(x), optimizer=sgd, **settings)


def train_by_svi(pair, x):
    """Take the same steps by Pyro, whose loss is the sum over data."""
    svi = SVI(pair.model, pair.guide, pyro.optim.SGD({"lr": RATE / len(x)}), TraceMeanField_ELBO())
    for _ in range(STEPS):
        svi.step(x)


def functions(nets):
    """A pair of functions, with a parameter of each kind: of a module, of pyro.param, with a constraint."""
    net, *_ = nets

    def model(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            normal("z", x.new_zeros(1), 1.0)
            normal("x", net(x.new_ones(1)), 1.0, obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.full((1,), 0.5))
        scale = pyro.param("scale", torch.full((1,), 2.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            normal("z", loc, scale)

    return Pair(model, guide)


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(1, 1)


class Model(PyroModule):
    def __init__(self, seed=0, name=""):
        super().__init__(name)
        self.net = PyroModule[nn.Linear](1, 1)
        self.net.load_state_dict(linear(seed).state_dict())
        self.noise = PyroParam(torch.full((1,), 2.0 + seed), constraint=constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            normal("z", x.new_zeros(1), 1.0)
            normal("x", self.net(x.new_ones(1)), self.noise, obs=x)


class Guide(PyroModule):
    def __init__(self, key="scale", name=""):
        super().__init__(name)
        self.key, self.loc = key, nn.Parameter(torch.full((1,), 0.5))
        setattr(self, key, PyroParam(torch.full((1,), 2.0), constraint=constraints.positive))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            normal("z", self.loc, getattr(self, self.key))


def values(pair):
    """All tensors of a pair of PyroModules."""
    both = {"model": pair.model.state_dict(), "guide": pair.guide.state_dict()}
    return {f"{role}.{name}": value for role, state in both.items() for name, value in state.items()}


def close(one, other):
    return one.keys() == other.keys() and all(torch.allclose(one[n], other[n], atol=1e-6) for n in one)


# Training


def test_functions_train_as_by_svi(x, param_store):
    for seed in (0, 1):  # the second pair has the same names
        mine, pyros = linear(seed), linear(seed)
        trained(functions([mine]), x)
        found = {name: value.detach() for name, value in param_store.items()}
        assert found.keys() == {"loc", "scale"}
        param_store.clear()
        train_by_svi(functions([pyros]), x)
        expected = {name: param_store[name].detach() for name in ("loc", "scale")}
        param_store.clear()
        assert close(found, expected)
        assert close(mine.state_dict(), pyros.state_dict())
        assert not torch.allclose(mine.weight, linear(seed).weight)


@pytest.mark.parametrize("local", [False, True])
def test_pyro_modules_train_as_by_svi_and_the_second_one_too(local, x, param_store):
    """In Pyro the second pair needs a store of its own: it would get the first one's parameters."""
    pyro.settings.set(module_local_params=local)
    try:
        pairs = [Pair(Model(seed), Guide()) for seed in (0, 1)]
        for pair in pairs:
            trained(pair, x)
            assert not param_store.keys()
    finally:
        pyro.settings.set(module_local_params=False)
    for seed, pair in enumerate(pairs):
        pyros = Pair(Model(seed), Guide())
        with param_store.scope():
            train_by_svi(pyros, x)
        assert close(values(pair), values(pyros))
        assert not close(values(pair), values(Pair(Model(seed), Guide())))


def test_values_of_pyro_param_are_shared_by_name_as_in_pyro(x, param_store):
    trained(functions([linear()]), x)
    first = param_store["loc"].detach().clone()
    trained(functions([linear(1)]), x)  # goes on from there
    assert param_store["loc"].item() == pytest.approx(first.item() * (1 - RATE) ** STEPS)
    with param_store.scope():  # a store of its own
        trained(functions([linear(1)]), x)
        assert param_store["loc"].item() == pytest.approx(first.item())


def test_modules_in_reach_that_are_not_used_are_neither_trained_nor_refused(x):
    net, unrelated, frozen = linear(), nn.Linear(3, 3), nn.Linear(1, 1).requires_grad_(False)
    nets = {"used": net, "unrelated": unrelated, "frozen": frozen}
    before = copy.deepcopy(nets)

    def model(x):
        with pyro.plate("data", len(x)):
            normal("z", x.new_zeros(1), 1.0)
            normal("x", nets["used"](x.new_ones(1)) + nets["frozen"](x.new_ones(1)), 1.0, obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            normal("z", x.new_zeros(1), 1.0)

    decay = partial(torch.optim.AdamW, weight_decay=0.5)
    fit(Pair(model, guide), x, epochs=2, optimizer=decay, progress=False)
    moved = {key for key, net in nets.items() if not close(net.state_dict(), before[key].state_dict())}
    assert moved == {"used"}


def test_a_module_that_is_shown_to_pyro_must_be_used(x, param_store):
    nets = linear(), nn.Linear(3, 3)
    pair = functions(nets)

    def model(x):
        pyro.module("other", nets[1])
        pair.model(x)

    with pytest.raises(InputError, match=r"no gradient reaches nets\.1\.weight, nets\.1\.bias"):
        trained(Pair(model, pair.guide), x)
    nets[1].requires_grad_(False).eval()
    trained(Pair(model, pair.guide), x)


# Names


def test_each_parameter_has_one_name(x, param_store):
    net, other = linear(), nn.Linear(3, 3)
    other.weight = nn.Parameter(other.weight.detach().t())  # not contiguous: Pyro's store copies it
    pair = functions([net])

    def model(x):
        pyro.module("second name", net)
        pyro.module("other", other)
        pyro.param("third name", net.weight)
        pair.model(x)

    with own_parameters(pair, hand_back=False):
        named = named_parameters(Pair(model, pair.guide), x)
    assert list(named) == ["net.weight", "net.bias", "other.weight", "other.bias", "loc", "scale"]
    assert named["net.weight"] is net.weight
    assert named["other.weight"] is other.weight


def test_parameters_of_pyro_modules_have_one_name(x):
    names = ["0.noise_unconstrained", "0.net.weight", "0.net.bias", "1.loc", "1.scale_unconstrained"]
    for local in (False, True):
        pyro.settings.set(module_local_params=local)
        try:
            pair = Pair(Model(), Guide())
            with own_parameters(pair):
                assert list(named_parameters(pair, x)) == names
                assert optional_parameters(pair) == set()
        finally:
            pyro.settings.set(module_local_params=False)


def test_equal_names_of_different_parameters_are_told_apart(x, param_store):
    net = nn.Linear(1, 1)

    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.loc = nn.Linear(1, 1), nn.Parameter(torch.zeros(()))

        def forward(self, x):
            pyro.param("loc", torch.ones(()))
            net(self.net(x))

    owner = Owner()
    with own_parameters(owner, hand_back=False):
        named = named_parameters(Pair(owner, owner), x)
    assert list(named) == ["loc", "net.weight", "net.bias", "net.weight (2)", "net.bias (2)", "loc (2)"]
    assert named["loc"] is owner.loc
    assert named["net.weight (2)"] is net.weight


def test_a_bayesian_layer_has_the_parameters_that_are_left(x):
    layer = PyroModule[nn.Linear](1, 1)
    layer.weight = PyroSample(dist.Normal(torch.zeros(1, 1), 1.0).to_event(2))
    with own_parameters(layer), pyro.poutine.block():
        assert list(named_parameters(Pair(layer, layer), x)) == ["bias"]


# The parameter store


def test_models_can_be_copied_and_pickled_after_training(x, param_store):
    pair = Pair(Model(), Guide())
    trained(pair, x)
    again = pickle.loads(pickle.dumps(pair))
    assert close(values(copy.deepcopy(pair)), values(again))


def test_two_pyro_modules_of_a_pair_that_pyro_would_tie_are_refused(x):
    tied = Pair(Model(), Guide("noise"))
    for run in (trained, partial(marginal_likelihood, num_samples=2)):
        with pytest.raises(InputError, match=r"have a PyroParam 'noise'.*PyroModule\(name=\"guide\"\)"):
            run(tied, x)
    apart = Pair(Model(), Guide("noise", name="guide"))
    trained(apart, x)
    assert not torch.equal(apart.model.noise_unconstrained, apart.guide.noise_unconstrained)


def test_the_stores_parameter_of_another_pyro_module_is_refused(x, param_store):
    first, second = Pair(Model(0), Guide()), Pair(Model(1), Guide())
    train_by_svi(first, x)
    exact = marginal_likelihood(first, x, num_samples=2).log_px  # the store has its own parameters
    for run in (trained, partial(marginal_likelihood, num_samples=2)):
        with pytest.raises(InputError, match=r"'(noise|scale)' that is not .*clear_param_store"):
            run(second, x)
    second.model(x), second.guide(x)  # takes over
    assert torch.equal(second.model.noise_unconstrained, first.model.noise_unconstrained)
    marginal_likelihood(second, x, num_samples=2)
    param_store.clear()
    assert torch.equal(marginal_likelihood(first, x, num_samples=2).log_px, exact)
    third = Pair(Model(1), Guide())
    scale = third.model.noise.detach()
    mean = third.model.net(torch.ones(1)).detach()
    log_px = marginal_likelihood(third, x, num_samples=20_000).log_px
    assert torch.allclose(log_px.float(), dist.Normal(mean, scale).log_prob(x)[:, 0], atol=0.03)


def test_a_parameter_of_another_shape_in_the_store_is_refused(x, param_store):
    pyro.param("loc", torch.zeros(3))
    pair = functions([linear()])
    for run in (trained, partial(marginal_likelihood, num_samples=2)):
        with pytest.raises(
            InputError, match=r"'loc' has shape \(3,\) in .* shape \(1,\).*clear_param_store"
        ):
            run(pair, x)
    param_store.clear()
    trained(pair, x)


def test_a_parameter_that_a_program_hides_stays_as_it_is(x, param_store):
    """Pyro's way to freeze parameters of pyro.param."""
    pair = functions([linear()])
    hidden = Pair(pair.model, pyro.poutine.block(pair.guide, hide=["loc"]))
    trained(hidden, x)
    assert param_store["loc"] == 0.5
    assert param_store["scale"] < 1.9
    found = {name: value.detach().clone() for name, value in param_store.items()}
    param_store.clear()
    train_by_svi(Pair(functions([linear()]).model, hidden.guide), x)
    assert close(found, {name: param_store[name].detach() for name in ("loc", "scale")})


def run_apart(model, guide, x):
    with own_parameters(Pair(model, guide)):
        guide(x)
    return guide


def test_parameters_of_an_autoguide_belong_to_the_guide(x, param_store):
    """It makes them in its first run."""
    model = functions([linear()]).model
    first, second = (run_apart(model, AutoNormal(model, init_scale=scale), x) for scale in (0.5, 2.0))
    assert not param_store.keys()
    assert (first.scales.z < 0.6).all()
    assert (second.scales.z > 1.9).all()
    assert [name for name, _ in first.named_parameters()] == [
        "locs.z_unconstrained",
        "scales.z_unconstrained",
    ]


def test_an_autoguide_does_not_take_over_the_stores_parameters(x, param_store):
    model = functions([linear()]).model
    first = AutoNormal(model)
    first(x)
    with pytest.raises(InputError, match=r"'AutoNormal\.locs\.z' that is not .*call the module once"):
        run_apart(model, AutoNormal(model), x)
    loaded = AutoNormal(model)
    loaded(x)  # takes over, as after pyro.get_param_store().load
    run_apart(model, loaded, x)
    assert loaded.locs.z is first.locs.z
    param_store.clear()
    assert run_apart(model, AutoNormal(model), x).locs.z is not first.locs.z
