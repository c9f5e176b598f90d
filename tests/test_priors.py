"""Priors: mixtures against sums written out, densities that integrate to one, pseudo-inputs shared."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch

from pyrovae import fit
from pyrovae.distributions import DiagonalNormalMixture
from pyrovae.distributions.zuko_import import zuko
from pyrovae.errors import InputError
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import VAE
from pyrovae.networks import MLP, WithClass
from pyrovae.posteriors import DiagonalNormal, LinearNormal
from pyrovae.priors import (
    MaskedAutoregressive,
    MixtureOfGaussians,
    RealNVP,
    SplineCoupling,
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


PRIORS = {
    "mixture": lambda: MixtureOfGaussians(2, components=4),
    "vamp": lambda: VampPrior(encoder(), IMAGE, pseudo_inputs=5),
    "vamp with weights": lambda: VampPrior(encoder(), IMAGE, pseudo_inputs=5, learn_weights=True),
    "vamp with classes": lambda: VampPrior(encoder(classes=3), IMAGE, pseudo_inputs=5, num_classes=3),
    "vamp of full covariances": lambda: VampPrior(LinearNormal(IMAGE, 2), IMAGE, pseudo_inputs=5),
    "real nvp": lambda: RealNVP(2, steps=3, hidden=(8,)),
    "splines": lambda: SplineCoupling(2, steps=2, hidden=(8,)),
    "autoregressive": lambda: MaskedAutoregressive(2, steps=2, hidden=(8,)),
    "any of zuko's": lambda: ZukoPrior(zuko.flows.SOSPF(2, transforms=1, hidden_features=(8,))),
}


def build(name):
    """In 64-bit, and away from any tidy start."""
    torch.manual_seed(0)
    prior = PRIORS[name]().double()
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


# Every prior


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


# Mixtures


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


@pytest.mark.parametrize("scale", [1.0, 0.01])
@pytest.mark.parametrize("far", [0.0, 30.0, 1000.0])
def test_a_mixture_in_32_bit_is_right_to_its_rounding(scale, far):
    loc = far + torch.randn(50, 40)
    mixture = DiagonalNormalMixture(torch.randn(50), loc, torch.full((50, 40), scale))
    near, away = loc[:20] + scale * torch.randn(20, 40), far + torch.randn(20, 40)
    for z in (near, away):
        exact = dist.MixtureSameFamily(
            dist.Categorical(logits=mixture.log_weights.double()),
            dist.Normal(loc.double(), mixture.scale.double()).to_event(1),
        ).log_prob(z.double())
        found = mixture.log_prob(z)
        assert found.dtype == torch.float32
        assert ((found.double() - exact).abs() <= 1.2e-7 * exact.abs()).all()


def test_gradients_of_a_sharp_mixture_in_32_bit_are_right_to_their_rounding():
    loc, log_scale = 30 + torch.randn(50, 40), torch.full((50, 40), math.log(0.01))
    z = loc[:20] + 0.01 * torch.randn(20, 40)
    single = [loc.requires_grad_(), log_scale.requires_grad_(), z.requires_grad_()]
    double = [value.detach().double().requires_grad_() for value in single]
    scale = double[1].exp().float().double()  # the same as the one rounded below
    exact = dist.MixtureSameFamily(
        dist.Categorical(logits=torch.zeros(50).double()), dist.Normal(double[0], scale).to_event(1)
    )
    found = DiagonalNormalMixture(torch.zeros(50), loc, log_scale.exp())
    pairs = zip(
        torch.autograd.grad(found.log_prob(z).sum(), single),
        torch.autograd.grad(exact.log_prob(double[2]).sum(), double),
        strict=True,
    )
    for ours, expected in pairs:
        # Up to the error that the rounded scale itself brings in.
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5 * expected.abs().max())


def test_moments_of_a_mixture_are_those_of_its_draws():
    weights = torch.tensor([0.2, 0.5, 0.3]).double()
    loc = torch.tensor([[-2.0, 1.0], [0.0, 5.0], [3.0, 1.0]]).double()
    mixture = DiagonalNormalMixture(weights.log() + 7, loc, loc.abs() + 0.1).expand((2,))
    draws = mixture.sample((20_000,))
    assert draws.shape == (20_000, 2, 2)
    assert mixture.mean.shape == mixture.variance.shape == (2, 2)
    error = mixture.variance.sqrt() / math.sqrt(len(draws))
    assert ((draws.mean(0) - mixture.mean).abs() < 4 * error).all()
    spread = (draws - draws.mean(0)).square()
    error = spread.std(0) / math.sqrt(len(draws))
    assert ((spread.mean(0) - mixture.variance).abs() < 4 * error).all()


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


# Pseudo-inputs


def test_pseudo_inputs_begin_as_the_data_and_stay_within_their_bounds():
    prior = VampPrior(encoder(), IMAGE, pseudo_inputs=5).double()
    x = torch.rand(9, *IMAGE).double()
    prior.start_at(x)
    nearest = (prior.pseudo_inputs[:, None] - x).flatten(2).abs().amax(-1)
    chosen = nearest.argmin(-1)
    assert len(chosen.unique()) == 5
    assert nearest.amin(-1).max() < 0.011
    prior.start_at(x.round())
    assert prior.pseudo_inputs.min() > 0.009
    assert prior.pseudo_inputs.max() < 0.991
    (gradient,) = torch.autograd.grad(prior.pseudo_inputs.sum(), prior.free)
    assert gradient.min() > 0.01  # black and white pixels are not stuck
    with torch.no_grad():
        prior.free.fill_(0.5)
    (gradient,) = torch.autograd.grad(prior.pseudo_inputs.sum(), prior.free)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))


@pytest.mark.parametrize("bounds", [(0.0, 255.0), (-1.0, 1.0), None])
def test_pseudo_inputs_take_the_datas_own_bounds(bounds):
    prior = VampPrior(encoder(), IMAGE, pseudo_inputs=5, bounds=bounds).double()
    low, high = bounds or (-40.0, 40.0)
    x = low + (high - low) * (0.1 + 0.8 * torch.rand(5, *IMAGE).double())
    prior.start_at(x)
    found = prior.pseudo_inputs[prior.pseudo_inputs[:, 0, 0, 0].argsort()]
    torch.testing.assert_close(found, x[x[:, 0, 0, 0].argsort()])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MixtureOfGaussians(2, components=0), "components is 0; it must be a whole number"),
        (lambda: VampPrior(encoder(), IMAGE, pseudo_inputs=0), "pseudo_inputs is 0"),
        (
            lambda: VampPrior(encoder(), IMAGE, 2, num_classes=3),
            "2 pseudo-inputs are too few for 3 classes",
        ),
        (lambda: VampPrior(encoder(), (1, 4, 5), 2), r"expects data of shape \(\*, 1, 4, 4\)"),
        (
            lambda: VampPrior(encoder(), IMAGE, bounds=(1.0, 0.0)),
            r"bounds are \(1.0, 0.0\); expected the least",
        ),
        (
            lambda: VampPrior(encoder(), IMAGE, 6, num_classes=3),
            "does not run .* beside classes from 0 to 2",
        ),
        (lambda: VampPrior(encoder(), IMAGE, 6, num_classes=0), "num_classes is 0"),
        (
            lambda: VampPrior(encoder(classes=3), IMAGE, 6),
            "does not run on .*num_classes",
        ),
        (lambda: VampPrior(encoder(classes=3), IMAGE, 8, num_classes=4), "beside classes from 0 to 3"),
        (lambda: StandardNormal(0), "latent_dim is 0"),
        (lambda: RealNVP(2, steps=0), "steps is 0"),
        (
            lambda: ZukoPrior(zuko.flows.MAF(3, context=2)),
            "MAF is no prior over vectors: .*without a context",
        ),
        (lambda: ZukoPrior(torch.nn.Linear(2, 2)), "Linear is no prior over vectors"),
        (
            lambda: VampPrior(encoder(), IMAGE, 5).start_at(torch.zeros(4, *IMAGE)),
            r"have shape \(4, 1, 4, 4\); 5 pseudo-inputs .* need at least \(5, 1, 4, 4\)",
        ),
        (
            lambda: VampPrior(encoder(), IMAGE, 2).start_at(torch.full((3, *IMAGE), 255.0)),
            r"go from 255 to 255, beyond the pseudo-inputs' bounds \(0, 1\)",
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


class OnlyOwnDraws(DiagonalNormal):
    """A posterior like a planar flow's, which cannot tell the density of a point it did not draw."""

    def forward(self, *context):
        class Forgetful(dist.Normal):
            def log_prob(self, value):
                raise InputError("the Planar flow has no inverse")

        return Forgetful(torch.zeros(len(context[0]), 2), 1.0).to_event(1)


def test_a_posterior_that_scores_its_own_draws_only_is_refused_for_a_vamp_prior():
    with pytest.raises(InputError, match="this OnlyOwnDraws scores its own draws only"):
        VampPrior(OnlyOwnDraws(MLP(IMAGE, 6), 2), IMAGE, 5)


def test_building_a_vamp_prior_draws_nothing_but_its_pseudo_inputs():
    posterior = encoder()
    torch.manual_seed(1)
    VampPrior(posterior, IMAGE, 5)
    found = torch.rand(())
    torch.manual_seed(1)
    torch.randn(5, *IMAGE)
    assert found == torch.rand(())


# One posterior in two roles


@pytest.fixture
def shared():
    posterior = encoder()
    prior = VampPrior(posterior, IMAGE, pseudo_inputs=5)
    return VAE(prior, Bernoulli(MLP(2, IMAGE, hidden=(8,))), posterior)


def test_the_shared_posterior_counts_once_and_stays_shared(shared, binary_images):
    names = [name for name, _ in shared.named_parameters()]
    own = sum(1 for _ in shared.posterior.parameters()) + sum(1 for _ in shared.likelihood.parameters())
    assert len(names) == own + 1  # and the pseudo-inputs
    for other in (copy.deepcopy(shared), copy.deepcopy(shared).double()):
        assert other.prior.posterior is other.posterior
        assert other.posterior is not shared.posterior
        assert len(list(other.parameters())) == len(names)
    double = copy.deepcopy(shared).double()
    assert double.prior().log_prob(torch.zeros(2).double()).dtype == torch.float64
    # The prior moves with the posterior.
    before = shared.prior().log_prob(torch.zeros(2))
    with torch.no_grad():
        shared.posterior.loc.bias.add_(1)
    assert shared.prior().log_prob(torch.zeros(2)) != before


def test_a_saved_vamp_prior_is_put_back_with_its_posterior(shared, tmp_path):
    torch.save(shared.state_dict(), tmp_path / "vae.pt")
    torch.manual_seed(1)
    posterior = encoder()
    other = VAE(VampPrior(posterior, IMAGE, 5), Bernoulli(MLP(2, IMAGE, hidden=(8,))), posterior)
    other.load_state_dict(torch.load(tmp_path / "vae.pt", weights_only=True))
    z = torch.randn(3, 2)
    assert torch.equal(other.prior().log_prob(z), shared.prior().log_prob(z))
    assert other.prior.posterior is other.posterior


def test_a_run_with_a_vamp_prior_resumes_to_the_same_parameters(shared, binary_images, tmp_path):
    other, x = copy.deepcopy(shared), binary_images
    fit(shared, x, epochs=3, progress=False)
    fit(other, x, epochs=1, folder=tmp_path, progress=False)
    torch.manual_seed(1)
    posterior = encoder()
    fresh = VAE(VampPrior(posterior, IMAGE, 5), Bernoulli(MLP(2, IMAGE, hidden=(8,))), posterior)
    fit(fresh, x, epochs=3, folder=tmp_path, resume=True, progress=False)
    for (name, one), two in zip(shared.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, two), name


# Flows


@pytest.mark.parametrize(
    ("build", "same"),
    [
        (
            lambda: RealNVP(5, steps=2, hidden=(8,)),
            lambda: zuko.flows.MAF(5, 0, 2, hidden_features=(8,), passes=2),
        ),
        (lambda: MaskedAutoregressive(5, 2, (8,)), lambda: zuko.flows.MAF(5, 0, 2, hidden_features=(8,))),
        (
            lambda: SplineCoupling(5, 2, (8,), bins=4),
            lambda: zuko.flows.NSF(5, 0, bins=4, transforms=2, hidden_features=(8,), passes=2),
        ),
    ],
    ids=["real nvp", "autoregressive", "splines"],
)
def test_a_flows_density_is_zukos(build, same):
    prior, flow = build(), same()
    flow.load_state_dict(prior.flow.state_dict())
    z = torch.randn(3, 4, 5)
    assert torch.equal(prior().log_prob(z), flow().log_prob(z))
    assert torch.equal(prior().expand((3, 4)).log_prob(z), flow().log_prob(z))


@pytest.mark.parametrize("family", [RealNVP, SplineCoupling])
def test_a_coupling_layer_bends_one_half_by_the_other_and_the_next_in_turn(family):
    """Within a half no dimension depends on another."""
    prior, z = family(6, steps=2, hidden=(8,)).double(), torch.randn(6).double()
    first, second = (
        torch.autograd.functional.jacobian(layer(None), z) for layer in prior.flow.transform.transforms
    )
    for jacobian, given, bent in ((first, slice(0, 3), slice(3, 6)), (second, slice(3, 6), slice(0, 3))):
        for half in (given, bent):
            assert torch.equal(jacobian[half, half], jacobian[half, half].diagonal().diag())
        assert (jacobian[given, bent] == 0).all()
        assert (jacobian[bent, given] != 0).any(1).all()


@pytest.mark.parametrize("family", [RealNVP, SplineCoupling, MaskedAutoregressive])
@pytest.mark.parametrize(("latent_dim", "nats"), [(1, 1.0), (2, 0.04), (40, 0.01)])
def test_a_flow_begins_near_the_standard_normal(family, latent_dim, nats):
    z = torch.randn(200, latent_dim)
    exact = dist.Normal(0.0, 1.0).expand((latent_dim,)).to_event(1).log_prob(z)
    with torch.no_grad():
        found = family(latent_dim)().log_prob(z)
    assert ((found - exact).abs().mean() / latent_dim).item() < nats


def test_validation_stays_as_it_was_though_zuko_is_imported():
    with pytest.raises(ValueError, match="constraint"):
        torch.distributions.Normal(0.0, -1.0)
