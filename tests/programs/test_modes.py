"""Evaluation mode, buffers and modes handed back, for modules behind plain functions and objects.

The pair is x ~ N(a z, 1) with z ~ N(0, 1). Its networks have dropout and batch statistics. In evaluation
mode the guide is the exact posterior, so each importance weight is the evidence N(x; 0, 1 + a^2).
"""

import functools
import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae import fit, plate_diagram
from pyrovae.errors import InputError
from pyrovae.evaluation import (
    active_units,
    gradient_variance,
    inference_gaps,
    kl_decomposition,
    marginal_likelihood,
    prior_marginal_likelihood,
)
from pyrovae.generation import latent_means, reconstruct
from pyrovae.objectives import ELBO
from pyrovae.programs import Pair
from pyrovae.programs.modes import buffers_kept, evaluating, in_training, nothing_moves
from pyrovae.programs.structure import structure

pytestmark = pytest.mark.cpu

A = 2.0


def encoder():
    """The posterior's mean, a x / (1 + a^2), in evaluation mode."""
    net = nn.Sequential(nn.BatchNorm1d(1), nn.Dropout(0.5))
    net[0].running_var.fill_(((1 + A**2) / A) ** 2)
    return net


def decoder():
    """The likelihood's mean, a z, in evaluation mode."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Dropout(0.5))
    nn.init.constant_(net[0].weight, A)
    return net


def model_with(net, x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)


def guide_with(net, x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(net(x), (1 + A**2) ** -0.5).to_event(1))


def plain_functions():
    nets = decoder(), encoder()

    def model(x):
        pyro.module("decoder", nets[0])
        model_with(nets[0], x)

    def guide(x):
        pyro.module("encoder", nets[1])
        guide_with(nets[1], x)

    return Pair(model, guide), nets


class Unregistered(nn.Module):
    """Its networks are in a list, so torch does not know them."""

    def __init__(self):
        super().__init__()
        self.nets = [decoder(), encoder()]

    def model(self, x):
        model_with(self.nets[0], x)

    def guide(self, x):
        guide_with(self.nets[1], x)


class Plain:
    def __init__(self):
        self.nets = {"decoder": decoder(), "encoder": encoder()}
        self.model = functools.partial(model_with, self.nets["decoder"])

    def guide(self, x):
        guide_with(self.nets["encoder"], x)


def plain_object():
    pair = Plain()
    return pair, tuple(pair.nets.values())


def lambdas_of_methods():
    module = Unregistered()
    return Pair(lambda x: module.model(x), functools.partial(module.guide)), tuple(module.nets)


def frozen_list_in_a_module():
    module = Unregistered()
    for net in module.nets:
        net.requires_grad_(False)
    return module, tuple(module.nets)


def beyond_the_search():
    """Networks that are only found when they are called."""
    nets = decoder(), encoder()
    get = dict(enumerate(nets)).get  # the search does not look behind a method of a built-in type
    return Pair(lambda x: model_with(get(0), x), lambda x: guide_with(get(1), x)), nets


TRAINED = [plain_functions, plain_object, lambdas_of_methods]
KINDS = [*TRAINED, frozen_list_in_a_module, beyond_the_search]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def found(request):
    return request.param()


@pytest.fixture
def x():
    return torch.linspace(-2.0, 3.0, 6)[:, None]


class Watch:
    """The modes, buffers and random streams of some networks, to be compared later."""

    def __init__(self, nets):
        self.parts = [part for net in nets for part in net.modules()]
        nets[0][1].eval()  # a mixture of modes must survive
        self.before = self.now()

    def now(self):
        modes = [part.training for part in self.parts]
        return modes, [b.tolist() for part in self.parts for b in part.buffers()]

    def check(self):
        assert self.now() == self.before


EVALUATIONS = {
    "evidence": lambda pair, x: marginal_likelihood(pair, x, num_samples=3),
    "prior evidence": lambda pair, x: prior_marginal_likelihood(pair, x, num_samples=3),
    "gaps": lambda pair, x: inference_gaps(pair, x, num_samples=3, steps=2, particles=2),
    "kl": lambda pair, x: kl_decomposition(pair, x, num_samples=2),
    "units": lambda pair, x: active_units(pair, x, num_samples=3),
    "means": latent_means,
    "images": reconstruct,
    "diagram": plate_diagram,
    "structure": lambda pair, x: str(structure(pair, x)),
}


def test_the_evidence_is_that_of_evaluation_mode(found, x):
    pair, nets = found
    watch = Watch(nets)
    exact = dist.Normal(0.0, (1 + A**2) ** 0.5).log_prob(x[:, 0]).double()
    result = marginal_likelihood(pair, x, num_samples=5)
    assert torch.allclose(result.log_px, exact, atol=1e-5)
    assert result.std_error.max() < 1e-5
    watch.check()


@pytest.mark.parametrize("evaluate", EVALUATIONS.values(), ids=EVALUATIONS)
def test_evaluation_moves_no_mode_and_no_buffer(evaluate, found, x):
    pair, nets = found
    watch = Watch(nets)
    evaluate(pair, x)
    watch.check()


@pytest.mark.parametrize("kind", TRAINED, ids=lambda kind: kind.__name__)
def test_gradients_are_those_of_training_but_move_nothing(kind, x):
    pair, nets = kind()
    watch = Watch(nets)
    nets[1][1].p = nets[0][1].p = 0.0
    found = gradient_variance(ELBO(), pair, x, repeats=30)
    watch.check()
    # The gradient of E[(x - a z)^2 + z^2] / 2 by a shift of the posterior's mean m is (1 + a^2) m - a x. In
    # evaluation mode its mean over data is 0. In training mode the mean of m is 0, which leaves -1.
    shift = next(name for name in found.mean if name.endswith("0.bias"))
    assert found.mean[shift].item() == pytest.approx(-A * x.mean().item(), abs=0.6)
    assert (found.variance[shift] / 30).sqrt() < 0.2


def test_codes_are_the_means_of_evaluation_mode(found, x):
    pair, _ = found
    for _ in range(2):
        assert torch.allclose(latent_means(pair, x), A * x / (1 + A**2), atol=1e-5)


def test_modes_return_after_an_error(found, x):
    pair, nets = found
    watch = Watch(nets)
    with pytest.raises(InputError):
        marginal_likelihood(pair, x.expand(6, 2), num_samples=2)
    watch.check()
    with pytest.raises(RuntimeError), nothing_moves(pair):
        pair.guide(x.expand(6, 2))
    watch.check()


@pytest.mark.parametrize("kind", TRAINED, ids=lambda kind: kind.__name__)
def test_fit_validates_in_evaluation_mode_and_leaves_modes(kind, x):
    pair, nets = kind()
    nets[1][0].momentum = 0.0  # the running statistics stay, so the guide stays exact
    watch = Watch(nets)
    still = functools.partial(torch.optim.SGD, lr=0.0)
    history = fit(pair, x, epochs=2, optimizer=still, validation=x, progress=False)
    exact = dist.Normal(0.0, (1 + A**2) ** 0.5).log_prob(x[:, 0]).mean().item()
    assert history["validation_elbo"] == pytest.approx([exact, exact], abs=1e-5)
    assert max(history["elbo"]) < exact - 0.1  # with dropout and the batch's own statistics
    assert watch.now()[0] == watch.before[0]


@pytest.mark.parametrize("kind", TRAINED, ids=lambda kind: kind.__name__)
def test_batch_statistics_move_once_in_a_step_and_in_no_check(kind, x):
    pair, nets = kind()
    fit(pair, x, epochs=3, batch_size=3, progress=False)
    assert nets[1][0].num_batches_tracked == 3 * 2


def test_training_mode_reaches_all_but_what_is_frozen_in_evaluation_mode():
    trained, frozen = encoder().eval(), encoder().requires_grad_(False).eval()
    both = nn.Sequential(encoder(), encoder().requires_grad_(False)).eval()

    def program(x):
        return both(trained(frozen(x)))

    with in_training(program):
        assert all(part.training for part in trained.modules())
        assert not any(part.training for part in frozen.modules())
        assert [part.training for part in both] == [True, False]
    assert not any(part.training for net in (trained, frozen, both) for part in net.modules())


def test_a_module_made_in_the_run_is_evaluated_without_dropout(x):
    def program(x):
        return nn.Dropout(0.5)(x)

    with evaluating(program):
        assert torch.equal(program(x), x)


def test_a_mode_that_the_program_itself_sets_is_respected(x):
    dropout = nn.Dropout(0.5)

    def program(x):
        return dropout.train()(x)

    with evaluating(program):
        assert not torch.equal(program(x), x)


class Counter(nn.Module):
    """Counts its calls in whatever mode, in one buffer in place and in another by a new tensor."""

    def __init__(self):
        super().__init__()
        self.register_buffer("in_place", torch.zeros(()))
        self.register_buffer("replaced", torch.zeros(()))
        self.register_buffer("absent", None)

    def forward(self, x):
        self.in_place += 1
        self.replaced = self.replaced + 1
        return x


def test_buffers_return_also_if_they_are_replaced_or_found_late(x):
    counters = [Counter(), Counter()]
    get = dict(enumerate(counters)).get
    before = [counter.replaced for counter in counters]
    for kept in (buffers_kept, nothing_moves):
        with kept(counters[0]):
            for counter in counters:
                assert get(counters.index(counter))(x) is x
                assert counter.in_place == counter.replaced == 1
        for counter, tensor in zip(counters, before, strict=True):
            assert counter.in_place == counter.replaced == 0
            assert counter.replaced is tensor


def test_lazy_modules_get_their_shapes_and_keep_their_buffers(x):
    lazy = nn.Sequential(nn.LazyLinear(2), nn.LazyBatchNorm1d())

    def program(x):
        return lazy(x)

    with evaluating(program), buffers_kept(program):
        assert program(x).shape == (6, 2)
    assert lazy[1].num_batches_tracked == 0
    assert torch.equal(lazy[1].running_var, torch.ones(2))
    with buffers_kept(program):
        program(x)
    assert lazy[1].num_batches_tracked == 0


def test_a_look_at_a_program_moves_no_random_stream():
    def program():
        return random.random(), np.random.rand(), torch.rand(())

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    with nothing_moves(program):
        inside = program()
    assert inside == program()


def test_a_compiled_part_is_evaluated(x):
    """The hook on calls of modules works beside torch.compile."""
    net = torch.compile(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)), backend="eager")

    def program(x):
        return net(x)

    with evaluating(program):
        assert torch.equal(program(x), program(x))
    assert net.training
