"""The contract of every prior, likelihood, posterior and classifier: one table, one set of tests."""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import nn

from pyrovae import classifiers, flows, likelihoods, posteriors, priors
from pyrovae.distributions.zuko_import import zuko
from pyrovae.errors import InputError
from pyrovae.flows import Sylvester
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


def flow(make, *args, any_value=True, **settings):
    def build():
        return posteriors.FlowPosterior(MLP(IMAGE, 7, hidden=(6,)), LATENT, make(LATENT, *args, **settings))

    return Case(build, IMAGE, (LATENT,), any_value=any_value)


# A new component is one row here.
CASES = {
    "standard normal": Case(lambda: priors.StandardNormal(LATENT), None, (LATENT,)),
    "mixture of gaussians": Case(lambda: priors.MixtureOfGaussians(LATENT, 4), None, (LATENT,)),
    "vamp prior": Case(lambda: priors.VampPrior(encoder(), IMAGE, 4), None, (LATENT,)),
    "vamp prior with weights": Case(
        lambda: priors.VampPrior(encoder(), IMAGE, 4, learn_weights=True), None, (LATENT,)
    ),
    "vamp prior of x and y": Case(
        lambda: priors.VampPrior(class_encoder(), IMAGE, 4, num_classes=CLASSES), None, (LATENT,)
    ),
    "vamp prior of linear normals": Case(
        lambda: priors.VampPrior(posteriors.LinearNormal(IMAGE, LATENT), IMAGE, 4), None, (LATENT,)
    ),
    "real nvp": Case(lambda: priors.RealNVP(LATENT, 3, (6,)), None, (LATENT,)),
    "spline coupling": Case(lambda: priors.SplineCoupling(LATENT, 2, (6,)), None, (LATENT,)),
    "masked autoregressive": Case(lambda: priors.MaskedAutoregressive(LATENT, 2, (6,)), None, (LATENT,)),
    "bernoulli": Case(lambda: likelihoods.Bernoulli(decoder()), (LATENT,), IMAGE),
    "continuous bernoulli": Case(lambda: likelihoods.ContinuousBernoulli(decoder()), (LATENT,), IMAGE),
    "gaussian": Case(lambda: likelihoods.Gaussian(decoder(), scale=0.3), (LATENT,), IMAGE),
    "categorical": Case(lambda: likelihoods.Categorical(decoder(256)), (LATENT,), IMAGE),
    "diagonal normal": Case(encoder, IMAGE, (LATENT,)),
    "full covariance normal": Case(
        lambda: posteriors.FullCovarianceNormal(MLP(IMAGE, 7, hidden=(6,)), LATENT), IMAGE, (LATENT,)
    ),
    "planar flow": flow(flows.Planar, 2, any_value=False),
    "radial flow": flow(flows.Radial, 2, any_value=False),
    "householder flow": flow(flows.Householder, 2),
    "convex combination flow": flow(flows.ConvexCombination, 2),
    "inverse autoregressive flow": flow(flows.InverseAutoregressive, 2, (6,), context=4),
    "spline coupling flow": flow(flows.SplineCoupling, 2, (6,), bins=3, context=4),
    "orthogonal sylvester flow": flow(Sylvester, 2, columns=2, any_value=False),
    "householder sylvester flow": flow(Sylvester, 2, "householder", reflections=2, any_value=False),
    "triangular sylvester flow": flow(Sylvester, 2, "triangular", any_value=False),
    "zuko flow": Case(
        lambda: posteriors.ZukoPosterior(
            MLP(IMAGE, 7, hidden=(6,)), zuko.flows.MAF(LATENT, 7, hidden_features=(6,)), invert=True
        ),
        IMAGE,
        (LATENT,),
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


def test_the_standard_normal_prior_is_the_standard_normal():
    z = torch.randn(5, LATENT).double()
    by_hand = -0.5 * z.square().sum(-1) - LATENT / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(build(CASES["standard normal"])().log_prob(z), by_hand)


def test_the_diagonal_normal_posterior_uses_its_second_head_as_scale():
    posterior = build(CASES["diagonal normal"])
    (x,) = given(CASES["diagonal normal"], 4)
    z = torch.randn(4, LATENT).double()
    features = posterior.network(x)
    loc, scale = posterior.loc(features), posterior.scale(features).exp().add(1).log() + 1e-4
    by_hand = -0.5 * ((z - loc) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(posterior(x).log_prob(z), by_hand.sum(-1))


def test_a_collapsed_posterior_still_has_a_density():
    posterior = build(CASES["diagonal normal"])
    with torch.no_grad():
        posterior.scale.bias.fill_(-1e4)
    (x,) = given(CASES["diagonal normal"], 4)
    distribution = posterior(x)
    assert distribution.log_prob(distribution.sample()).isfinite().all()


def test_the_linear_normal_posterior_takes_over_mean_and_covariance():
    posterior = build(CASES["linear normal"])
    weight, bias, root = (
        torch.randn(LATENT, math.prod(IMAGE)).double(),
        torch.randn(LATENT).double(),
        torch.randn(LATENT, LATENT).double(),
    )
    covariance = root @ root.T + torch.eye(LATENT).double()
    posterior.set_to(weight, bias, covariance)
    (x,) = given(CASES["linear normal"], 4)
    torch.testing.assert_close(posterior(x).mean, x.flatten(1) @ weight.T + bias)
    torch.testing.assert_close(posterior(x).covariance_matrix, covariance.expand(4, -1, -1))


def test_a_class_is_put_beside_whatever_leads():
    """As in enumeration: classes (C, 1) beside data (B, M) are C x B calls."""
    network = WithClass(MLP(LATENT + CLASSES, 4), CLASSES).double()
    z = torch.randn(5, LATENT).double()
    every = network(z, torch.arange(CLASSES)[:, None])
    assert every.shape == (CLASSES, 5, 4)
    for label in range(CLASSES):
        alone = network(z, torch.full((5,), label))
        torch.testing.assert_close(every[label], alone)
    assert not torch.equal(every[0], every[1])


def test_uniform_classes_stay_uniform():
    assert not any(p.requires_grad for p in priors.Classes(4).parameters())
    torch.testing.assert_close(priors.Classes(4)().probs, torch.full((4,), 0.25))
    with pytest.raises(InputError, match="num_classes is 1"):
        priors.Classes(1)


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_class_that_a_network_does_not_have_is_refused(label):
    network = WithClass(MLP(LATENT + CLASSES, 4), CLASSES)
    with pytest.raises(InputError, match=f"classes from {label} to {label} do not go into a network of 2"):
        network(torch.zeros(3, LATENT), torch.full((3,), label))


@pytest.mark.parametrize(
    "build",
    [
        lambda network, size: posteriors.DiagonalNormal(network, size),
        lambda network, size: posteriors.FullCovarianceNormal(network, size),
        lambda network, size: posteriors.FlowPosterior(network, size, flows.Planar(size)),
    ],
    ids=["diagonal", "full covariance", "flow"],
)
def test_networks_and_sizes_that_make_no_posterior_are_refused(build):
    with pytest.raises(InputError, match="Linear does not say what shape its output has"):
        build(nn.Linear(4, 3), 2)
    with pytest.raises(InputError, match=r"MLP makes an output of shape \(3, 4\); expected features"):
        build(MLP(4, (3, 4)), 2)
    for size in (0, 2.5):
        with pytest.raises(InputError, match=f"latent_dim is {size}; it must be a whole number"):
            build(MLP(4, 3), size)


def test_networks_that_do_not_say_what_they_make_are_refused():
    with pytest.raises(InputError, match="Linear does not say what shape its output has"):
        likelihoods.Bernoulli(nn.Linear(4, 3))
    with pytest.raises(InputError, match="Linear does not say what shape its output has"):
        classifiers.Classifier(nn.Linear(4, 3))


def test_bounds_hold_for_a_diagonal_normals_scales():
    bounded, free = (posteriors.DiagonalNormal(MLP(3, 4), 2, bounds) for bounds in ((0.05, 2.7), None))
    free.load_state_dict(bounded.state_dict())
    x = 300 * torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    unbounded = free(x).base_dist
    assert unbounded.scale.min() < 0.05
    assert unbounded.scale.max() > 2.7
    torch.testing.assert_close(bounded(x).base_dist.scale, unbounded.scale.clamp(0.05, 2.7))
    torch.testing.assert_close(bounded(x).base_dist.loc, unbounded.loc)


@pytest.mark.parametrize("bounds", [(0, 1), (1, 1), (2, 1), (0.1, float("inf")), (0.1,), 0.1, ("a", "b")])
def test_bounds_that_hold_no_scale_are_refused(bounds):
    with pytest.raises(InputError, match=r"scale_bounds is .*; expected the least and the greatest scale"):
        posteriors.DiagonalNormal(MLP(3, 4), 2, bounds)
