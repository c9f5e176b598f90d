"""Flow posteriors: what every one must satisfy, in one table, and what is particular to each."""

import copy
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.inspect import get_model_relations
from scipy.spatial import cKDTree
from torch import nn
from torch.distributions import Transform, constraints
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae import fit, flows, plate_diagram
from pyrovae.classifiers import Classifier
from pyrovae.distributions import AmortisedFlow, MultivariateNormal, _Pushforward
from pyrovae.distributions.zuko_import import zuko
from pyrovae.errors import InputError
from pyrovae.evaluation import gradient_variance, marginal_likelihood
from pyrovae.flows.sylvester import Sylvester, orthonormal_columns
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import M2, PPCA, VAE
from pyrovae.networks import MLP, WithClass
from pyrovae.objectives import ELBO
from pyrovae.posteriors import FlowPosterior, FullCovarianceNormal, ZukoPosterior
from pyrovae.priors import Classes, StandardNormal, VampPrior
from pyrovae.programs.running import at_means

FEATURES = 6
X_SHAPE = (1, 4, 4)
SMALL = {"hidden": (16,), "context": 4}


class Case(NamedTuple):
    flow: Callable[[int], nn.Module]
    inverse: bool  # whether it can score what it did not draw


# A new flow is one row here.
FLOWS = {
    "planar": Case(lambda m: flows.Planar(m, 3), False),
    "radial": Case(lambda m: flows.Radial(m, 3), False),
    "householder": Case(lambda m: flows.Householder(m, 3), True),
    "convex combination": Case(lambda m: flows.ConvexCombination(m, 3), True),
    "inverse autoregressive": Case(lambda m: flows.InverseAutoregressive(m, 3, **SMALL), True),
    "spline coupling": Case(lambda m: flows.SplineCoupling(m, 3, bins=4, **SMALL), True),
    "sylvester orthogonal": Case(lambda m: Sylvester(m, 3), False),
    "sylvester householder": Case(lambda m: Sylvester(m, 3, "householder", reflections=2), False),
    "sylvester triangular": Case(lambda m: Sylvester(m, 3, "triangular"), False),
}
ZUKO = {
    "zuko maf inverted": (zuko.flows.MAF, True),
    "zuko spline": (partial(zuko.flows.NSF, passes=2), False),
}
NAMES = [*FLOWS, *ZUKO]
WITH_INVERSE = [name for name in NAMES if name in ZUKO or FLOWS[name].inverse]
WITHOUT_INVERSE = [name for name in NAMES if name not in WITH_INVERSE]

every_posterior = pytest.mark.parametrize("name", NAMES)
every_invertible = pytest.mark.parametrize("name", WITH_INVERSE)
every_other = pytest.mark.parametrize("name", WITHOUT_INVERSE)
every_flow = pytest.mark.parametrize("name", FLOWS)


def posterior_of(name, network, latent_dim):
    if name in FLOWS:
        return FlowPosterior(network, latent_dim, FLOWS[name].flow(latent_dim))
    make, invert = ZUKO[name]
    (features,) = network.out_shape
    return ZukoPosterior(network, make(latent_dim, features, transforms=2, hidden_features=(16,)), invert)


def build(name, latent_dim=3, x_shape=FEATURES, seed=0, strength=0.0):
    """A posterior in 64-bit, its parameters moved away from their start by normal draws."""
    torch.manual_seed(seed)
    posterior = posterior_of(name, MLP(x_shape, 8, hidden=(8,)), latent_dim).double()
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.add_(strength * torch.randn_like(parameter))
    return posterior


def data(*leading):
    return torch.randn(*leading, FEATURES).double()


def draw(distribution, seed=5):
    """z, its log density, and the z_0 that it was made of."""
    torch.manual_seed(seed)
    z = distribution.rsample()
    torch.manual_seed(seed)
    return z, distribution.log_prob(z), distribution.base.rsample()


def push(distribution, z):
    for transform in distribution.transforms:
        z = transform(z)
    return z


def by_jacobian(distribution, z0):
    """log q at f(z_0), with autograd's determinant for each of the data `(B, M)`."""
    jacobian = torch.autograd.functional.jacobian(lambda z: push(distribution, z).sum(0), z0)
    return distribution.base.log_prob(z0) - torch.linalg.slogdet(jacobian.movedim(0, 1))[1]


# Density


@pytest.mark.parametrize("latent_dim", [1, 2, 5, 40])
@every_posterior
def test_the_density_has_the_determinant_of_autograds_jacobian(name, latent_dim):
    # Large triangular matrices soon become too ill-conditioned for the test's own arithmetic.
    for seed, strength in enumerate([0.0, 0.3, 0.6] if latent_dim < 40 else [0.0, 0.1, 0.3]):
        distribution = build(name, latent_dim, seed=seed, strength=strength)(data(3))
        z, log_prob, z0 = draw(distribution)
        torch.testing.assert_close(push(distribution, z0), z)
        torch.testing.assert_close(log_prob, by_jacobian(distribution, z0), atol=1e-4, rtol=0)


@torch.no_grad()
def preimages(distribution, z, low, high):
    """z_0 with f(z_0) = z for points `(N, 2)`, by Newton's method from the nearest of many points with a
    known image; and which were found. It knows nothing of the flow but its forward direction."""
    grid = torch.cartesian_prod(
        *(torch.linspace(a, b, 200).double() for a, b in zip(low, high, strict=True))
    )
    nearest = cKDTree(push(distribution, grid).numpy()).query(z.numpy())[1]
    z0 = grid[nearest]
    for _ in range(12):
        with torch.enable_grad():
            jacobian = torch.autograd.functional.jacobian(lambda p: push(distribution, p).sum(0), z0)
        error = push(distribution, z0) - z
        step = torch.linalg.solve(jacobian.movedim(0, 1), error)
        halvings = [z0 - step / 2**k for k in range(6)]
        errors = torch.stack([(push(distribution, p) - z).norm(dim=-1) for p in halvings])
        z0 = torch.stack(halvings)[errors.argmin(0), torch.arange(len(z))]
    return z0, (push(distribution, z0) - z).norm(dim=-1) < 1e-6


@every_posterior
def test_the_density_integrates_to_one(name):
    distribution = build(name, 2, seed=2, strength=0.3)(data(1))
    z, _, _ = draw(distribution.expand((5000,)))
    spread = z.std(0)
    low, high = z.min(0).values - spread, z.max(0).values + spread
    axes = [torch.linspace(a, b, 100).double() for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    points = torch.cartesian_prod(*axes)
    cell = math.prod((axis[1] - axis[0]).item() for axis in axes)
    if name in WITH_INVERSE:
        density = distribution.log_prob(points).exp()
    else:
        base = distribution.base.base_dist
        reach = 7 * base.scale[0]
        z0, found = preimages(distribution, points, base.loc[0] - reach, base.loc[0] + reach)
        density = by_jacobian(distribution, z0).exp() * found
    assert (density.sum() * cell).item() == pytest.approx(1, abs=0.01)


def rival_of(distribution):
    """A normal distribution that lies where most of q's draws are."""
    z, _, _ = draw(distribution, seed=6)
    return torch.distributions.MultivariateNormal(z.mean(0), 0.9 * z.T.cov())


@torch.no_grad()
@every_other
def test_samples_and_density_agree_in_40_dimensions(name):
    """E_q[h / q] = 1 for a density h; as h is narrower than q, the ratio has no heavy tail."""
    distribution = build(name, 40, seed=2, strength=0.05)(data(1)).expand((5000,))
    h = rival_of(distribution)
    z, log_q, _ = draw(distribution)
    ratio = (h.log_prob(z) - log_q).exp()
    error = ratio.std() / math.sqrt(len(ratio))
    assert error < 0.03
    assert abs(ratio.mean() - 1) < 4 * error


@torch.no_grad()
@every_invertible
def test_samples_density_and_inverse_agree_in_40_dimensions(name):
    """The integral of min(h, q) by draws from q, scored as they are drawn, and by draws from h, scored by
    q's inverse. Both ratios are bounded, however heavy the tails are."""
    distribution = build(name, 40, seed=2, strength=0.1)(data(1)).expand((1500,))
    h = rival_of(distribution)
    z, log_q, _ = draw(distribution)
    theirs = h.sample((1500,))
    of_q = (h.log_prob(z) - log_q).exp().clamp(max=1)
    of_h = (distribution.log_prob(theirs) - h.log_prob(theirs)).exp().clamp(max=1)
    error = ((of_q.var() + of_h.var()) / len(z)).sqrt()
    assert of_q.mean() > 0.05
    assert abs(of_q.mean() - of_h.mean()) < 4 * error


@every_invertible
def test_a_foreign_value_is_scored_by_the_inverse(name):
    distribution = build(name, 5, strength=0.5)(data(4))
    z, log_prob, z0 = draw(distribution)
    torch.testing.assert_close(distribution.log_prob(z.clone()), log_prob)
    torch.testing.assert_close(distribution.log_prob(z.clone()), by_jacobian(distribution, z0))


@every_invertible
def test_any_number_of_points_is_scored_under_each_member_of_a_batch(name):
    """As in a mixture over pseudo-inputs."""
    posterior, x = build(name, 3, strength=0.5), data(4)
    z = torch.randn(5, 1, 3).double()
    together = posterior(x).log_prob(z)
    assert together.shape == (5, 4)
    for i, j in itertools.product(range(5), range(4)):
        torch.testing.assert_close(together[i, j], posterior(x[j]).log_prob(z[i, 0]))


@every_other
def test_a_flow_without_an_inverse_says_so(name):
    distribution = build(name)(data(4))
    first = distribution.rsample()
    distribution.rsample()
    for foreign in (first, first.clone(), torch.zeros(4, 3).double()):
        with pytest.raises(InputError, match=f"a {type(distribution.flow).__name__} flow has no inverse"):
            distribution.log_prob(foreign)


# Gradients


@every_posterior
def test_gradients_at_the_start_are_finite_and_every_parameter_moves(name):
    for seed in range(10):
        for latent_dim in (2, 40):
            posterior = build(name, latent_dim, seed=seed).float()
            before = copy.deepcopy(posterior.state_dict())
            distribution = posterior(data(4).float())
            z = distribution.rsample()
            (distribution.log_prob(z) + 0.5 * (z - 1).square().sum(-1)).sum().backward()
            torch.optim.SGD(posterior.parameters(), lr=0.1).step()
            for key, parameter in posterior.named_parameters():
                assert parameter.grad.isfinite().all(), key
                assert parameter.grad.abs().max() > 1e-8, key
                assert not torch.equal(parameter, before[key]), key


@every_flow
def test_every_number_of_the_context_counts(name):
    flow = FLOWS[name].flow(4).double()
    context = torch.randn(flow.context_dim).double().requires_grad_()
    z, weights = torch.randn(4).double(), torch.randn(4).double()
    loss = 0.0
    for transform in flow(context):
        z, log_determinant = transform.call_and_ladj(z)
        loss = loss + log_determinant
    (gradient,) = torch.autograd.grad(loss + weights @ z, context)
    assert (gradient != 0).all()


@every_flow
def test_flows_start_near_the_identity(name):
    distribution = build(name, 40)(data(100))
    z, log_prob, z0 = draw(distribution)
    torch.testing.assert_close(distribution.base.log_prob(z0), log_prob, atol=1.0, rtol=0)
    if name != "householder":  # a reflection is never near
        assert (z - z0).abs().mean() < 0.1


@every_invertible
def test_the_score_functions_gradient_holds_the_draw_still(name):
    """d log q(z) / d bias at a z that does not move with it, held against finite differences."""
    posterior, x = build(name, strength=0.3), data(1)
    distribution = posterior(x)
    z = distribution.sample()
    log_prob = distribution.log_prob(z)
    heads = (
        (posterior.loc, posterior.scale, posterior.context) if name in FLOWS else posterior.network.layers
    )
    for bias in (head.bias for head in heads if hasattr(head, "bias")):
        (gradient,) = torch.autograd.grad(log_prob.sum(), bias, retain_graph=True)
        direction, step, found = torch.randn_like(bias), 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                bias.add_(sign * step * direction)
                found.append(posterior(x).log_prob(z).item())
                bias.sub_(sign * step * direction)
        expected = (found[0] - found[1]) / (2 * step)
        assert (gradient @ direction).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@every_other
def test_the_score_functions_gradient_is_refused_where_it_is_not_known(name):
    distribution = build(name)(data(4))
    _, expected, _ = draw(distribution)
    torch.manual_seed(5)
    log_prob = distribution.log_prob(distribution.sample())  # the number itself is known
    torch.testing.assert_close(log_prob, expected)
    with pytest.raises(InputError, match=r"no inverse.*score function"):
        log_prob.sum().backward()


# Shapes


@pytest.mark.parametrize("leading", [(), (4,), (2, 4), (3, 1, 4)], ids=str)
@every_posterior
def test_particles_and_enumerated_classes_lead(name, leading):
    posterior, x = build(name, strength=0.3), data(*leading)
    distribution = posterior(x)
    assert (distribution.batch_shape, distribution.event_shape) == (leading, (3,))
    wide = (2, *leading)
    z, log_prob, z0 = draw(distribution.expand(wide))
    assert (z.shape, log_prob.shape) == ((*wide, 3), wide)
    for index in itertools.product(*map(range, wide)):
        alone = posterior(x[index[1:]])
        image, density = z0[index], alone.base.log_prob(z0[index])
        for transform in alone.transforms:
            image, log_determinant = transform.call_and_ladj(image)
            density = density - log_determinant
        torch.testing.assert_close(image, z[index])
        torch.testing.assert_close(density, log_prob[index])


@every_posterior
def test_a_plate_of_particles_widens_the_batch_between(name):
    distribution = build(name)(data(3, 1, 4)).expand((3, 5, 4))
    z, log_prob, _ = draw(distribution)
    assert (z.shape, log_prob.shape) == ((3, 5, 4, 3), (3, 5, 4))
    assert len(z.flatten(0, 2).unique(dim=0)) == 60
    assert distribution.rsample((2,)).shape == (2, 3, 5, 4, 3)


# In programs


few_samples = pytest.mark.filterwarnings("ignore:k-hat is above")


fast = partial(torch.optim.Adam, lr=0.02)


def make_vae(name, seed=0):
    torch.manual_seed(seed)
    posterior = posterior_of(name, MLP(X_SHAPE, 6, hidden=(8,)), 2)
    return VAE(StandardNormal(2), Bernoulli(MLP(2, X_SHAPE, hidden=(8,))), posterior)


@pytest.fixture
def no_inverse(monkeypatch):
    """Fails whatever scores a value other than the draw."""

    def refuse(*_):
        raise AssertionError("an inverse was run")

    monkeypatch.setattr(_Pushforward, "_score", refuse)


class Calls:
    """How often modules ran."""

    def __init__(self, *modules):
        self.counts = dict.fromkeys(modules, 0)
        for module in modules:
            module.register_forward_hook(self._count)

    def _count(self, module, *_):
        self.counts[module] += 1


def networks_of(flow):
    return [module.hyper for module in flow.modules() if hasattr(module, "hyper")]


@few_samples
@every_flow
def test_sampling_and_scoring_run_every_network_once(name, binary_images, no_inverse):
    vae = make_vae(name)
    calls = Calls(vae.posterior, vae.posterior.flow, *networks_of(vae.posterior.flow))
    fit(vae, binary_images, epochs=1, batch_size=8, progress=False)
    marginal_likelihood(vae, binary_images, num_samples=30)
    assert len(set(calls.counts.values())) == 1, "once whenever the guide ran"
    before = calls.counts[vae.posterior]
    Trace_ELBO().differentiable_loss(vae.model, vae.guide, binary_images)
    assert set(calls.counts.values()) == {before + 1}


def test_the_networks_that_are_counted_are_there():
    assert len(networks_of(FLOWS["inverse autoregressive"].flow(3))) == 3
    assert len(networks_of(FLOWS["spline coupling"].flow(3))) == 3


@every_posterior
def test_a_vae_trains_by_fit_and_by_svi(name, binary_images, param_store, no_inverse):
    vae = make_vae(name)
    before = {key: value.clone() for key, value in vae.named_parameters()}
    history = fit(vae, binary_images, epochs=15, batch_size=12, optimizer=fast, progress=False)
    assert history["elbo"][-1] > history["elbo"][0]
    assert all(not torch.equal(value, before[key]) for key, value in vae.named_parameters())
    middle = {key: value.clone() for key, value in vae.named_parameters()}
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO(num_particles=2))
    assert math.isfinite(svi.step(binary_images))
    assert all(not torch.equal(value, middle[key]) for key, value in vae.named_parameters())


@every_posterior
def test_the_marginal_likelihood_is_the_exact_one_on_ppca(name, no_inverse):
    torch.manual_seed(0)
    ppca = PPCA(5, 2, posterior_of(name, MLP(5, 8, hidden=(8,)), 2)).double()
    with torch.no_grad():
        ppca.weight.normal_(std=0.25)
        if name in FLOWS:
            ppca.posterior.scale.bias.fill_(1.0)  # wide enough a proposal
        else:
            for parameter in ppca.posterior.parameters():
                parameter.mul_(0.5)  # the flow nearer to the identity
        x = ppca.likelihood(ppca.prior().sample((6,))).sample()
    result = marginal_likelihood(ppca, x, num_samples=4000)
    assert result.num_unreliable == 0
    difference = (result.log_px - ppca.log_evidence(x)).abs()
    assert (difference < 4 * result.std_error + 1e-9).all()


@few_samples
@every_posterior
def test_an_enumerated_class_stands_beside_a_flow(name, binary_images, classes, no_inverse):
    torch.manual_seed(0)
    m2 = M2(
        class_prior=Classes(3),
        prior=StandardNormal(2),
        likelihood=Bernoulli(WithClass(MLP(2 + 3, X_SHAPE, hidden=(8,)), 3)),
        classifier=Classifier(MLP(X_SHAPE, 3, hidden=(8,))),
        posterior=posterior_of(name, WithClass(MLP(6 + 3, 7), 3, MLP(X_SHAPE, 6)), 2),
    )
    y = torch.where(torch.arange(24) < 6, classes, -1)
    history = fit(m2, binary_images, y, epochs=2, progress=False)
    assert math.isfinite(history["elbo"][-1])
    assert marginal_likelihood(m2, binary_images, num_samples=20).log_px.isfinite().all()


@every_posterior
def test_a_flow_has_no_mean_so_that_a_draw_stands_for_it(name, binary_images):
    vae = make_vae(name)
    with pytest.raises(NotImplementedError):
        _ = vae.posterior(binary_images).mean
    guide = pyro.poutine.trace(at_means(vae.guide))
    one, two = (guide.get_trace(binary_images).nodes["z"]["value"] for _ in range(2))
    assert not torch.equal(one, two)


@every_posterior
def test_the_plate_diagram_is_read_off_a_flow(name, binary_images):
    vae = make_vae(name)
    diagram = plate_diagram(vae, binary_images)
    assert ("x", "z") in {(a, b) for a, b in diagram.inference_edges}
    assert get_model_relations(vae.guide, (binary_images,))["sample_sample"] == {"z": []}


@every_posterior
def test_a_saved_posterior_draws_and_scores_the_same_when_loaded(name, tmp_path):
    posterior, x = build(name, strength=0.3), data(4)
    torch.save(posterior.state_dict(), tmp_path / "posterior.pt")
    loaded = build(name, seed=1)
    loaded.load_state_dict(torch.load(tmp_path / "posterior.pt", weights_only=True))
    for found, expected in zip(draw(loaded(x)), draw(posterior(x)), strict=True):
        assert torch.equal(found, expected)


@every_flow
def test_a_step_can_be_recorded_as_a_graph_without_waiting_for_a_number(name):
    posterior = build(name, 4)

    def step(x):
        distribution = posterior(x).expand((2, 3))
        z = distribution.rsample()
        return [z.detach(), distribution.log_prob(z).detach()]

    with pyro.validation_enabled(False):
        graph = make_fx(step)(data(3))
        x = data(3)
        for recorded, run in zip(*(seeded(f, x) for f in (graph, step)), strict=True):
            torch.testing.assert_close(recorded, run)
    operations = {str(node.target) for node in graph.graph.nodes}
    assert not operations & {"aten._local_scalar_dense.default", "aten.nonzero.default"}


def seeded(function, x):
    torch.manual_seed(3)
    return function(x)


@every_posterior
def test_the_parameters_of_one_datum_can_be_set_free(name):
    distribution = build(name, strength=0.3)(data(4)).expand((2, 4))
    start = distribution.free_parameters()
    leaves = {key: value.detach().clone().requires_grad_() for key, value in start.items()}
    assert set(leaves) == ({"loc", "scale", "context"} if name in FLOWS else {"context"})
    assert all(leaf.shape[:2] == (2, 4) for leaf in leaves.values())
    free = distribution.with_parameters(leaves)
    for found, expected in zip(draw(free), draw(distribution), strict=True):
        torch.testing.assert_close(found, expected)
    z, log_prob, _ = draw(free)
    (log_prob + z.square().sum(-1)).sum().backward()
    assert all(leaf.grad.abs().amax(-1).min() > 0 for leaf in leaves.values()), "each datum has its own"


# What is particular to each


def test_a_planar_step_is_invertible_whatever_its_parameters_are():
    flow = flows.Planar(3, 1)
    for size in (0.0, 1e-12, 1.0, 1e3):
        u, w = size * torch.randn(1000, 3), size * torch.randn(1000, 3)
        u[:500] = -w[:500]  # as far against one another as can be
        context = torch.cat([u, w, torch.zeros(1000, 1)], -1).requires_grad_()
        (step,) = flow(context)
        assert step.inner.min() > -1
        z = torch.randn(1000, 3)
        image, log_determinant = step.call_and_ladj(z)
        assert log_determinant.isfinite().all()
        assert step.call_and_ladj(torch.zeros(1000, 3))[1].isfinite().all()  # where tanh is steepest
        (gradient,) = torch.autograd.grad((image.sum() + log_determinant.sum()), context)
        assert gradient.isfinite().all()


def test_a_planar_step_is_the_papers_where_it_is_invertible_as_it_stands():
    u, w, b, z = (torch.randn(3).double() for _ in range(4))
    u = u * (u @ w).sign()  # then w^T u > 0
    (step,) = flows.Planar(3, 1)(torch.cat([u, w, b[:1]]))
    torch.testing.assert_close(step(z), z + u * torch.tanh(w @ z + b[0]))


def test_a_radial_step_is_the_papers():
    centre, z = torch.randn(3).double(), torch.randn(3).double()
    alpha, beta = 0.7, -0.4  # above -alpha
    one, two = torch.tensor([alpha, alpha + beta]).double().expm1().log()  # undoes the softplus
    (step,) = flows.Radial(3, 1)(torch.cat([centre, torch.stack([one, two - one])]))
    expected = z + beta * (z - centre) / (alpha + (z - centre).norm())
    torch.testing.assert_close(step(z), expected)


def test_householder_reflections_preserve_lengths_and_come_in_order():
    normals, z = torch.randn(2, 3).double(), torch.randn(3).double()
    (transform,) = flows.Householder(3, 2)(normals.flatten())
    expected = z
    for v in normals:
        expected = expected - 2 * v * (v @ expected) / (v @ v)
    torch.testing.assert_close(transform(z), expected)
    torch.testing.assert_close(transform(z).norm(), z.norm())


def test_the_convex_combination_is_one_of_unit_triangular_matrices():
    flow = flows.ConvexCombination(3, 2).double()
    context, z = torch.randn(flow.context_dim).double(), torch.randn(3).double()
    one, two = context.unflatten(0, (2, 4))
    weights = torch.stack([one[3], two[3]]).softmax(0)
    expected = torch.zeros(3).double()
    for weight, (a, b, c, _) in zip(weights, (one, two), strict=True):
        expected += weight * torch.stack([z[0], a * z[0] + z[1], b * z[0] + c * z[1] + z[2]])
    (transform,) = flow(context)
    torch.testing.assert_close(transform(z), expected)


def dependence(transform, latent_dim):
    """Which output changes with which input, `(M, M)`."""
    z = torch.randn(latent_dim).double()
    return torch.autograd.functional.jacobian(transform, z) != 0


def test_inverse_autoregressive_steps_are_triangular_in_turn():
    flow = flows.InverseAutoregressive(4, 3, **SMALL).double()
    one, two, three = (dependence(t, 4) for t in flow(torch.randn(4).double()))
    lower = torch.ones(4, 4, dtype=torch.bool).tril()
    assert torch.equal(one, lower)
    assert torch.equal(two, lower.T)
    assert torch.equal(three, lower)


@pytest.mark.parametrize("latent_dim", [2, 5])
def test_in_spline_coupling_each_dimension_sees_the_other_half_in_turn(latent_dim):
    flow = flows.SplineCoupling(latent_dim, 2, **SMALL).double()
    one, two = (dependence(t, latent_dim) for t in flow(torch.randn(4).double()))
    odd = torch.arange(latent_dim) % 2 == 1
    itself = torch.eye(latent_dim, dtype=torch.bool)
    assert torch.equal(one, itself | (odd[:, None] & ~odd))
    assert torch.equal(two, itself | (~odd[:, None] & odd))


def test_splines_end_at_their_bound():
    flow = flows.SplineCoupling(2, 2, bound=3.0, **SMALL).double()
    z = torch.tensor([[3.1, -4.0], [2.9, 2.0]]).double()
    image = z
    for transform in flow(torch.randn(4).double()):
        image = transform(image)
    assert torch.equal(image[0], z[0])
    assert (image[1] != z[1]).all()


@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        ({}, 5),
        ({"columns": 10}, 10),
        ({"columns": 1}, 1),
        ({"orthogonal": "householder"}, 10),
        ({"orthogonal": "triangular"}, 10),
    ],
    ids=str,
)
def test_sylvester_matrices_are_what_the_theorem_asks_for(settings, columns):
    flow = Sylvester(10, 4, **settings).double()
    context = 5 * torch.randn(200, flow.context_dim).double()
    r1, r2, _, of_q = flow._split(context)
    bases = flow._bases(of_q)
    assert len(bases) == 4
    z = torch.randn(10).double()
    for basis in bases:
        q = matrix_of(basis, columns)
        assert q.shape[-2:] == (10, columns)
        torch.testing.assert_close(q.mT @ q, torch.eye(columns).double().expand(*q.shape[:-2], -1, -1))
        torch.testing.assert_close(basis.coordinates(z), q.mT @ z)
    for r in map(flow._upper_triangle, (r1, r2)):
        assert torch.equal(r, r.triu())
        assert r.diagonal(dim1=-2, dim2=-1).abs().max() < 1
        assert (r.triu(1)[..., 0, -1] != 0).all() or columns == 1


def matrix_of(basis, columns):
    return torch.stack([basis.combine(row) for row in torch.eye(columns).double()], -1)


def test_a_sylvester_step_is_the_papers():
    flow = Sylvester(4, 1, columns=2).double()
    context, z = torch.randn(flow.context_dim).double(), torch.randn(4).double()
    (basis,) = flow._bases(flow._split(context)[-1])
    r1, r2, b, _ = (part[0] for part in flow._split(context))
    q, r1, r2 = matrix_of(basis, 2), flow._upper_triangle(r1), flow._upper_triangle(r2)
    (step,) = flow(context)
    torch.testing.assert_close(step(z), z + q @ r1 @ torch.tanh(r2 @ q.T @ z + b))


def test_triangular_sylvester_steps_turn_the_order_around():
    context = torch.randn(3 * 24).double()
    one, two, three = (dependence(t, 4) for t in Sylvester(4, 3, "triangular").double()(context))
    upper = torch.ones(4, 4, dtype=torch.bool).triu()
    assert torch.equal(one, upper)
    assert torch.equal(two, upper.T)
    assert torch.equal(three, upper)


def test_orthonormal_columns_are_gram_schmidts_and_do_not_jump():
    for matrix in torch.randn(200, 4, 3).double():
        columns = []
        for a in matrix.T:
            for q in columns:
                a = a - q * (q @ a)
            columns.append(a / a.norm())
        torch.testing.assert_close(orthonormal_columns(matrix), torch.stack(columns, -1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"orthogonal": "diagonal"}, "orthogonal is 'diagonal'; there are orthogonal, householder, tri"),
        ({"columns": 4}, "columns is 4; .* from 1 to 3 columns in 3 dimensions"),
        ({"columns": 2, "orthogonal": "triangular"}, "columns is 2; .* from 3 to 3 columns"),
        ({"columns": 0}, "columns is 0; .* from 1 to 3 columns"),
        ({"steps": 0}, "steps is 0; it must be a whole number of at least 1"),
    ],
    ids=str,
)
def test_a_sylvester_flow_that_cannot_be_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Sylvester(3, **settings)


def test_a_flow_over_another_number_of_dimensions_is_refused():
    with pytest.raises(InputError, match="latent_dim is 3, but the Planar flow is over 2 dimensions"):
        FlowPosterior(MLP(4, 5), 3, flows.Planar(2))


def test_what_is_not_a_flow_of_zuko_is_refused():
    with pytest.raises(InputError, match="GMM is not a flow of Zuko"):
        ZukoPosterior(MLP(4, 5), zuko.mixtures.GMM(2, 5))


@pytest.mark.parametrize("invert", [False, True])
def test_a_zuko_posterior_is_zukos_own_distribution(invert):
    flow = zuko.flows.MAF(3, 8).double()
    posterior = ZukoPosterior(MLP(FEATURES, 8).double(), flow, invert)
    x, z = data(4), torch.randn(4, 3).double()
    features = posterior.network(x)
    transform = flow.transform(features)
    theirs = zuko.distributions.NormalizingFlow(transform.inv if invert else transform, flow.base(features))
    torch.testing.assert_close(posterior(x).log_prob(z), theirs.log_prob(z))


def test_the_inverted_maf_draws_in_one_pass_and_the_other_way_in_many():
    for invert, passes in ((True, 1), (False, 5 + 1)):  # one for each dimension, one for the determinant
        posterior = ZukoPosterior(MLP(FEATURES, 8), zuko.flows.MAF(5, 8, transforms=1), invert)
        calls = Calls(posterior.flow.transform.transforms[0].hyper)
        distribution = posterior(data(4).float())
        distribution.log_prob(distribution.rsample())
        assert list(calls.counts.values()) == [passes]


class Shift(Transform):
    """A transform of the user's own, which knows nothing of this library or of Zuko."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, by):
        super().__init__()
        self.by = by

    def _call(self, x):
        return 2 * x + self.by

    def log_abs_det_jacobian(self, x, y):
        return torch.full(x.shape[:-1], x.shape[-1] * math.log(2)).to(x)


def test_a_flow_of_torchs_transforms_serves_as_well():
    class Own(flows.Flow):
        def forward(self, context):
            return [Shift(context)]

    posterior = FlowPosterior(MLP(FEATURES, 4), 3, Own(3, 3)).double()
    distribution = posterior(data(4))
    z, log_prob, z0 = draw(distribution)
    torch.testing.assert_close(log_prob, by_jacobian(distribution, z0))
    with pytest.raises(InputError, match="a Own flow has no inverse"):
        distribution.log_prob(z.clone())


def test_an_expanded_flow_shares_its_transforms_and_knows_no_draw_of_the_other():
    distribution = build("householder")(data(4))
    z = distribution.rsample()
    wide = distribution.expand((2, 4))
    assert isinstance(wide, AmortisedFlow)
    assert wide.transforms is distribution.transforms
    torch.testing.assert_close(wide.log_prob(z), distribution.log_prob(z).expand(2, 4))


def test_a_wrong_shape_is_refused_where_validation_is_on():
    distribution = build("householder")(data(4))
    with pytest.raises(ValueError, match="right-most size"):
        distribution.log_prob(torch.zeros(4, 2).double())


def test_a_vamp_prior_mixes_a_flows_densities_at_its_pseudo_inputs():
    posterior = build("inverse autoregressive", strength=0.3)
    prior = VampPrior(posterior, FEATURES, 4, bounds=None)
    z = torch.randn(5, 3).double()
    each = torch.stack([posterior(u).log_prob(z) for u in prior.pseudo_inputs])
    torch.testing.assert_close(prior().log_prob(z), each.logsumexp(0) - math.log(4))


@pytest.mark.parametrize(
    "make", [zuko.flows.MAF, zuko.flows.NICE, zuko.flows.NSF], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("invert", [False, True])
def test_a_vamp_prior_mixes_zukos_flows_too(make, invert):
    torch.manual_seed(0)
    posterior = ZukoPosterior(MLP(FEATURES, 8), make(3, 8), invert).double()
    prior = VampPrior(posterior, FEATURES, 4, bounds=None)
    z = torch.randn(5, 3).double()
    each = torch.stack([posterior(u[None]).log_prob(z) for u in prior.pseudo_inputs])
    torch.testing.assert_close(prior().log_prob(z), each.logsumexp(0) - math.log(4))


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("name", ["NAF", "CNF", "GF"])
def test_zukos_flows_that_compute_by_autograd_train_in_every_parameter(name, invert, binary_images):
    torch.manual_seed(0)
    flow = getattr(zuko.flows, name)(2, 4, hidden_features=(16,))
    posterior = ZukoPosterior(MLP((1, 4, 4), 4, hidden=(6,)), flow, invert)
    vae = VAE(StandardNormal(2), Bernoulli(MLP(2, (1, 4, 4), hidden=(6,))), posterior)
    noise = gradient_variance(ELBO(), vae, binary_images[:4], repeats=2)
    assert all(mean.abs().sum() > 0 for mean in noise.mean.values())
    before = {name: value.clone() for name, value in vae.named_parameters()}
    fit(vae, binary_images[:8], epochs=1, progress=False)
    assert all((value != before[name]).any() for name, value in vae.named_parameters())


def test_a_reflection_by_nothing_is_a_reflection_all_the_same():
    for flow in (flows.Householder(3, 2), Sylvester(3, 2, "householder")):
        context = torch.zeros(flow.context_dim, dtype=torch.double, requires_grad=True)
        z = torch.randn(3).double()
        for transform in flow.double()(context):
            z = transform(z)
        assert z.isfinite().all()
        z.square().sum().backward()
        assert context.grad.isfinite().all()


def test_what_is_no_flow_of_the_library_is_refused():
    for flow in (zuko.flows.MAF(3, 8), flows.Planar):
        with pytest.raises(InputError, match=r"expected one of pyrovae.flows, such as Planar\(3\)"):
            FlowPosterior(MLP(4, 5), 3, flow)


@pytest.mark.parametrize("context", [0, 7])
def test_a_zuko_flow_of_another_context_is_refused_when_built(context):
    with pytest.raises(InputError, match=r"MAF does not take the network's features, \(5,\).*context=5"):
        ZukoPosterior(MLP(4, 5), zuko.flows.MAF(3, context))


@pytest.mark.parametrize("count", [0, 1.5, 2.0])
def test_counts_are_whole_numbers(count):
    with pytest.raises(InputError, match=f"steps is {count}; it must be a whole number of at least 1"):
        flows.Planar(3, count)
    with pytest.raises(InputError, match="bound is -1"):
        flows.SplineCoupling(3, bound=-1)


def test_a_vamp_prior_refuses_a_flow_that_cannot_score_others_draws():
    with pytest.raises(InputError, match="FlowPosterior scores its own draws only"):
        VampPrior(build("planar"), FEATURES, 4)


# The full-covariance normal


def test_the_full_covariance_normal_has_the_covariance_of_its_factor():
    torch.manual_seed(0)
    posterior = FullCovarianceNormal(MLP(FEATURES, 8), 3).double()
    with torch.no_grad():
        posterior.scale_tril.weight.normal_()
    x, z = data(4), torch.randn(4, 3).double()
    features = posterior.network(x)
    a, b, c, d, e, f = posterior.scale_tril(features).unbind(-1)
    zero, (s1, s2, s3) = torch.zeros_like(a), [(1 + v.exp()).log() + 1e-4 for v in (a, c, f)]
    rows = [[s1, zero, zero], [s2 * b, s2, zero], [s3 * d, s3 * e, s3]]
    factor = torch.stack([torch.stack(row, -1) for row in rows], -2)
    covariance = factor @ factor.mT
    away = z - posterior.loc(features)
    by_hand = -0.5 * (away * torch.linalg.solve(covariance, away)).sum(-1)
    by_hand = by_hand - 0.5 * torch.linalg.slogdet(2 * math.pi * covariance)[1]
    torch.testing.assert_close(posterior(x).log_prob(z), by_hand)
    torch.testing.assert_close(posterior(x).mean, posterior.loc(features))


@pytest.mark.parametrize("latent_dim", [1, 4])
def test_the_full_covariance_normal_begins_as_a_diagonal_one(latent_dim):
    covariance = FullCovarianceNormal(MLP(FEATURES, 8), latent_dim)(data(4).float()).covariance_matrix
    torch.testing.assert_close(covariance, torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1)))


def full_normals(latent_dim, batch, below=1.0):
    """The library's and torch's distribution with the same parameters, which carry gradients."""
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(batch, latent_dim, generator=generator, dtype=torch.double)
    entries = torch.randn(batch, latent_dim, latent_dim, generator=generator, dtype=torch.double)
    scale_tril = below * entries.tril(-1) + torch.diag_embed(0.5 + entries.diagonal(dim1=-2, dim2=-1).abs())
    parameters = loc.requires_grad_(), scale_tril.requires_grad_()
    return parameters, [
        cls(loc, scale_tril=scale_tril)
        for cls in (MultivariateNormal, torch.distributions.MultivariateNormal)
    ]


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("expanded", [False, True])
def test_the_full_covariance_normal_scores_its_draws_as_any_value(shape, expanded):
    torch.manual_seed(0)
    parameters, (ours, torchs) = full_normals(4, 5)
    if expanded:
        ours, torchs = ours.expand((2, 5)), torchs.expand((2, 5))
    z = ours.rsample(shape)
    assert z.shape == (*shape, *ours.batch_shape, 4)
    losses = [q.log_prob(z) + z.sin().sum(-1) for q in (ours, torchs)]
    torch.testing.assert_close(*losses)
    gradients = [torch.autograd.grad(loss.sum(), parameters, retain_graph=True) for loss in losses]
    for one, other in zip(*gradients, strict=True):  # what is above L's diagonal is no parameter
        torch.testing.assert_close(one.tril(), other.tril())
    torch.testing.assert_close(ours.log_prob(z + 1), torchs.log_prob(z + 1))


def test_the_full_covariance_normal_has_the_score_functions_gradient():
    torch.manual_seed(0)
    parameters, (ours, torchs) = full_normals(4, 5)
    z = ours.sample()
    scores = [q.log_prob(z) for q in (ours, torchs)]
    torch.testing.assert_close(*[torch.autograd.grad(score.sum(), parameters) for score in scores])
    with torch.no_grad():
        torch.testing.assert_close(ours.log_prob(z), torchs.log_prob(z))


def test_a_badly_conditioned_full_covariance_normal_is_scored_right():
    """In 40 dimensions, where the solution of the triangular system is lost in rounding."""
    torch.manual_seed(0)
    _, (wide, _) = full_normals(40, 1, below=3.0)
    q = MultivariateNormal(wide.loc.float(), scale_tril=wide.scale_tril.float())
    draws = q.rsample((4000,))
    surprise = -q.log_prob(draws)
    # The entropy is the mean of -log q; -log q has the variance of half a chi-square, 40 / 2.
    error = (surprise.mean() - wide.entropy()).abs()
    assert error < 4 * math.sqrt(20 / 4000)
    assert not (-q.log_prob(draws.clone()).mean() - wide.entropy()).abs() < 1e3  # by the system
