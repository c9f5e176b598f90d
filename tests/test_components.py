"""The contract of every prior, likelihood, posterior and classifier: one table, one set of tests."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from component_table import LIKELIHOODS, POSTERIORS, PRIORS
from torch import nn

from pyrovae import classifiers, flows, likelihoods, posteriors, priors
from pyrovae.errors import InputError
from pyrovae.networks import MLP, WithClass

LATENT = 3
CLASSES = 2
IMAGE = (3, 4, 5)


class Case(NamedTuple):
    build: Callable[[], nn.Module]
    given: tuple[int, ...] | None  # event shape of what it is called with; None: nothing
    event: tuple[int, ...]
    with_class: bool = False  # called with a class too
    any_value: bool = True  # scores what it did not draw


def decoder(levels=1, extra=0):
    return MLP(LATENT + extra, (levels * IMAGE[0], *IMAGE[1:]), hidden=(6,))


def encoder():
    return posteriors.DiagonalNormal(MLP(IMAGE, 7, hidden=(6,)), LATENT)


def class_encoder():
    network = WithClass(MLP(6 + CLASSES, 7, hidden=(6,)), CLASSES, features=MLP(IMAGE, 6))
    return posteriors.DiagonalNormal(network, LATENT)


def prior_case(make):
    return Case(lambda: make(LATENT, encoder(), IMAGE), None, (LATENT,))


def likelihood_case(row):
    return Case(lambda: row.build(decoder(row.levels)), (LATENT,), IMAGE)


def posterior_case(row):
    def build():
        return row.build(MLP(IMAGE, 7, hidden=(6,)), LATENT)

    return Case(build, IMAGE, (LATENT,), any_value=row.scores_any_point)


CASES = {
    **{f"prior: {name}": prior_case(make) for name, make in PRIORS.items()},
    **{f"likelihood: {name}": likelihood_case(row) for name, row in LIKELIHOODS.items()},
    **{f"posterior: {name}": posterior_case(row) for name, row in POSTERIORS.items()},
    # Those that are built of other things.
    "vamp prior of x and y": Case(
        lambda: priors.VampPrior(class_encoder(), IMAGE, 4, num_classes=CLASSES), None, (LATENT,)
    ),
    "vamp prior of linear normals": Case(
        lambda: priors.VampPrior(posteriors.LinearNormal(IMAGE, LATENT), IMAGE, 4), None, (LATENT,)
    ),
    "linear normal": Case(lambda: posteriors.LinearNormal(IMAGE, LATENT), IMAGE, (LATENT,)),
    "classes": Case(lambda: priors.Classes(CLASSES, learned=True), None, ()),
    "uniform classes": Case(lambda: priors.Classes(CLASSES), None, ()),
    "classifier": Case(lambda: classifiers.Classifier(MLP(IMAGE, CLASSES, hidden=(6,))), IMAGE, ()),
    "linear classifier": Case(lambda: classifiers.LinearClassifier(IMAGE, CLASSES), IMAGE, ()),
    "bernoulli of z and y": Case(
        lambda: likelihoods.Bernoulli(WithClass(decoder(extra=CLASSES), CLASSES)), (LATENT,), IMAGE, True
    ),
    "gaussian of z and y": Case(
        lambda: likelihoods.Gaussian(WithClass(decoder(extra=CLASSES), CLASSES)), (LATENT,), IMAGE, True
    ),
    "diagonal normal of x and y": Case(class_encoder, IMAGE, (LATENT,), True),
}
LEARNED = [name for name, case in CASES.items() if any(p.requires_grad for p in case.build().parameters())]


def build(case, seed=0):
    torch.manual_seed(seed)
    return case.build().double()


def given(case, *leading):
    if case.given is None:
        return ()
    x = torch.rand(*leading, *case.given).double()
    return (x, torch.randint(CLASSES, leading)) if case.with_class else (x,)


@pytest.fixture
def case(request):
    return CASES[request.param]


every_component = pytest.mark.parametrize("case", CASES, ids=str, indirect=True)
every_component_for_any_value = pytest.mark.parametrize(
    "case", [name for name, case in CASES.items() if case.any_value], ids=str, indirect=True
)
every_learned_component = pytest.mark.parametrize("case", LEARNED, ids=str, indirect=True)


def test_every_component_of_the_library_is_in_the_table():
    built = [module for case in CASES.values() for module in case.build().modules()]
    for package in (flows, posteriors, priors, likelihoods):
        members = (getattr(package, name) for name in package.__all__)
        components = {kind for kind in members if isinstance(kind, type) and issubclass(kind, nn.Module)}
        not_for_a_vae = {posteriors.FreeNormal, priors.IndependentNormal}  # of a network's weights
        for kind in components - not_for_a_vae - {flows.Flow, likelihoods.Likelihood}:
            assert any(isinstance(module, kind) for module in built), kind


@pytest.mark.parametrize("leading", [(), (4,), (2, 4), (2, 1, 4)], ids=str)
@every_component
def test_the_batch_is_what_leads_and_the_event_is_the_node(case, leading):
    distribution = build(case)(*given(case, *leading))
    assert distribution.event_shape == case.event
    assert distribution.batch_shape == (() if case.given is None else leading)
    wide = distribution.expand(leading)
    value = wide.sample()
    assert value.shape == (*leading, *case.event)
    assert wide.log_prob(value).shape == leading


@every_component_for_any_value
def test_log_prob_of_a_particle_does_not_depend_on_the_others(case):
    component = build(case)
    contexts = given(case, 2, 4)
    distribution = component(*contexts)
    value = distribution.expand((2, 4)).sample()
    for i, j in itertools.product(range(2), range(4)):
        alone = component(*(context[i, j] for context in contexts)).log_prob(value[i, j])
        torch.testing.assert_close(distribution.log_prob(value)[i, j], alone)


@every_learned_component
def test_every_parameter_gets_a_gradient_and_moves(case):
    component = build(case)
    distribution = component(*given(case, 4))
    value = distribution.sample() if case.any_value else distribution.rsample()
    before = {name: parameter.clone() for name, parameter in component.named_parameters()}
    optimizer = torch.optim.SGD(component.parameters(), lr=0.1)
    (value.square().sum() - distribution.log_prob(value).sum()).backward()
    optimizer.step()
    for name, parameter in component.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-8, name
        assert not torch.equal(parameter, before[name]), name


@every_component_for_any_value
def test_a_saved_component_scores_the_same_when_loaded(case, tmp_path):
    component = build(case)
    contexts = given(case, 4)
    value = component(*contexts).expand((4,)).sample()
    with torch.no_grad():  # away from any fixed start
        for parameter in component.parameters():
            parameter.add_(0.1)
    torch.save(component.state_dict(), tmp_path / "component.pt")
    loaded = build(case, seed=1)
    loaded.load_state_dict(torch.load(tmp_path / "component.pt", weights_only=True))
    assert torch.equal(loaded(*contexts).log_prob(value), component(*contexts).log_prob(value))


@every_component
def test_a_component_follows_its_module_to_another_type(case):
    single = build(case).float()
    contexts = (c.float() if c.is_floating_point() else c for c in given(case, 4))
    distribution = single(*contexts).expand((4,))
    value = distribution.sample()
    assert distribution.log_prob(value).dtype == torch.float32
    assert value.dtype == torch.float32 or not value.is_floating_point()


def test_networks_that_do_not_say_what_they_make_are_refused():
    with pytest.raises(InputError, match=r"Linear .*out_shape"):
        likelihoods.Bernoulli(nn.Linear(4, 3))
    with pytest.raises(InputError, match=r"Linear .*out_shape"):
        classifiers.Classifier(nn.Linear(4, 3))
