"""Every prior: its density integrates to one, agrees with its draws, and is the sum written out."""

import copy
import math
from functools import partial

import component_table
import pytest
import torch

from pyrovae.distributions.zuko_import import zuko
from pyrovae.errors import InputError
from pyrovae.networks import MLP, WithClass
from pyrovae.posteriors import DiagonalNormal, LinearNormal
from pyrovae.priors import (
    MixtureOfGaussians,
    RealNVP,
    StandardNormal,
    VampPrior,
    ZukoPrior,
)

IMAGE = (1, 4, 4)


def encoder(latent_dim=2, classes=0):
    features = MLP(IMAGE, 6, hidden=(8,))
    if classes:
        features = WithClass(MLP(6 + classes, 5, hidden=(8,)), classes, features)
    return DiagonalNormal(features, latent_dim)


# The rows of the table, and posteriors of other kinds in the VampPrior.
PRIORS = {name: partial(make, 2, encoder(), IMAGE) for name, make in component_table.PRIORS.items()} | {
    "vamp with classes": lambda: VampPrior(encoder(classes=3), IMAGE, pseudo_inputs=5, num_classes=3),
    "vamp of full covariances": lambda: VampPrior(LinearNormal(IMAGE, 2), IMAGE, pseudo_inputs=5),
}


def build(name):
    """In 64-bit, and away from any tidy start."""
    torch.manual_seed(0)
    prior = copy.deepcopy(PRIORS[name]()).double()  # which leaves the posterior in the table as it is
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return prior


@pytest.fixture(params=PRIORS, ids=str)
def prior(request):
    return build(request.param)


def grid(side=8.0, steps=270):
    """Points in the plane, `(steps^2, 2)`, and the area that each stands for."""
    middles = (torch.arange(steps).double() + 0.5) / steps * 2 * side - side
    return torch.cartesian_prod(middles, middles), (2 * side / steps) ** 2


def test_a_prior_integrates_to_one_and_its_draws_agree_with_it(prior):
    with torch.no_grad():
        distribution = prior()
        points, area = grid()
        log_p = distribution.log_prob(points)
        mass = log_p.exp() * area
        assert mass.sum().item() == pytest.approx(1, abs=0.01)
        draws = distribution.sample((4000,))
        found = distribution.log_prob(draws)
        expected = (mass * log_p).sum()
        assert abs(found.mean() - expected) < 4 * found.std() / math.sqrt(len(draws))
        for direction in ([1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [2.0, -2.0]):
            direction = torch.tensor(direction).double()
            found = (draws @ direction).tanh()
            expected = mass @ (points @ direction).tanh()
            assert abs(found.mean() - expected) < 4 * found.std() / math.sqrt(len(draws)) + 0.002


def test_a_prior_in_a_plate_of_particles_scores_what_it_draws(prior):
    z = prior().expand((3, 4)).sample()
    assert z.shape == (3, 4, 2)
    torch.testing.assert_close(prior().expand((3, 4)).log_prob(z), prior().log_prob(z))
    one_by_one = torch.stack([prior().log_prob(row) for row in z.flatten(0, 1)]).view(3, 4)
    torch.testing.assert_close(prior().log_prob(z), one_by_one)


def brute_force(log_weights, components, z):
    """log sum_k exp(log w_k + log N_k(z)) for each z, one component at a time: (B,)."""
    totals = []
    for point in z:
        terms = []
        for log_weight, (loc, covariance) in zip(log_weights, components, strict=True):
            away = point - loc
            square = away @ torch.linalg.solve(covariance, away)
            log_n = -0.5 * (square + torch.logdet(covariance) + len(away) * math.log(2 * math.pi))
            terms.append(log_weight.exp() * log_n.exp())
        totals.append(sum(terms).log())
    return torch.stack(totals)


def written_out(prior, z):
    """The mixture's density from the prior's own parameters: (B,)."""
    log_weights = prior.log_weights - prior.log_weights.exp().sum().log()
    if isinstance(prior, MixtureOfGaussians):
        components = [(m, (2 * s).exp().diag()) for m, s in zip(prior.loc, prior.log_scale, strict=True)]
        return brute_force(log_weights, components, z)
    components = []
    for number, free in enumerate(prior.free):
        u = 1 / (1 + (2 - 4 * free).exp())
        q = prior.posterior(u, torch.tensor(number % 3)) if prior.num_classes else prior.posterior(u)
        components.append((q.mean, getattr(q, "covariance_matrix", q.variance.diag())))
    return brute_force(log_weights, components, z)


MIXTURES = ["mixture", "vamp", "vamp with weights", "vamp with classes", "vamp of full covariances"]


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_is_the_sum_over_whole_vectors_written_out(name):
    prior = build(name)
    z = torch.randn(4, 2).double().requires_grad_()
    learned = {"z": z, **{n: p for n, p in prior.named_parameters() if p.requires_grad}}
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0]).double()  # so that no two data's gradients cancel
    ours, by_hand = prior().log_prob(z), written_out(prior, z)
    torch.testing.assert_close(ours, by_hand)
    pairs = zip(
        torch.autograd.grad(ours @ weights, list(learned.values())),
        torch.autograd.grad(by_hand @ weights, list(learned.values())),
        strict=True,
    )
    for name, (found, expected) in zip(learned, pairs, strict=True):
        torch.testing.assert_close(found, expected, msg=lambda text, name=name: f"{name}: {text}")
        assert found.abs().max() > 1e-9, name


@pytest.mark.parametrize("latent_dim", [2, 40])
def test_a_mixture_begins_at_the_standard_normals_covariance_with_components_four_nats_apart(latent_dim):
    prior = MixtureOfGaussians(latent_dim, components=500).double()
    mixture = prior()
    torch.testing.assert_close(
        mixture.variance, torch.ones(latent_dim).double(), rtol=0.25, atol=0.0, check_stride=False
    )
    distances = torch.cdist(prior.loc, prior.loc).square()
    divergence = (distances / (2 * prior.log_scale.exp()[0, 0] ** 2)).sum() / (500 * 499)
    assert divergence.item() == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MixtureOfGaussians(2, components=0), "components is 0; it must be a whole number"),
        (lambda: VampPrior(encoder(), IMAGE, pseudo_inputs=0), "pseudo_inputs is 0"),
        (
            lambda: VampPrior(encoder(), IMAGE, 2, num_classes=3),
            "pseudo_inputs is 2.*3 classes",
        ),
        (lambda: VampPrior(encoder(), (1, 4, 5), 2), r"\(\*, 1, 4, 4\)"),
        (
            lambda: VampPrior(encoder(), IMAGE, bounds=(1.0, 0.0)),
            r"bounds are \(1.0, 0.0\)",
        ),
        (
            lambda: VampPrior(encoder(), IMAGE, 6, num_classes=3),
            "does not run .*classes from 0 to 2",
        ),
        (lambda: VampPrior(encoder(), IMAGE, 6, num_classes=0), "num_classes is 0"),
        (
            lambda: VampPrior(encoder(classes=3), IMAGE, 6),
            "does not run on .*num_classes",
        ),
        (lambda: VampPrior(encoder(classes=3), IMAGE, 8, num_classes=4), "classes from 0 to 3"),
        (lambda: StandardNormal(0), "latent_dim is 0"),
        (lambda: RealNVP(2, steps=0), "steps is 0"),
        (
            lambda: ZukoPrior(zuko.flows.MAF(3, context=2)),
            "MAF .*without a context",
        ),
        (lambda: ZukoPrior(torch.nn.Linear(2, 2)), "Linear is not a prior"),
        (
            lambda: VampPrior(encoder(), IMAGE, 5).start_at(torch.zeros(4, *IMAGE)),
            r"shape \(4, 1, 4, 4\).*at least 5.*pseudo_inputs",
        ),
        (
            lambda: VampPrior(encoder(), IMAGE, 2).start_at(torch.full((3, *IMAGE), 255.0)),
            r"from 255 to 255.*\(0, 1\)",
        ),
        (
            lambda: VampPrior(encoder(), IMAGE, 2).start_at(torch.full((3, *IMAGE), math.nan)),
            "3 of 3 data hold values that are not finite",
        ),
    ],
)
def test_what_cannot_be_a_prior_is_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
