"""Other bounds and gradients than the ELBO's, against the same written by hand and against each other."""

import itertools
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import kl_divergence

import pyrovae
from pyrovae.errors import InputError
from pyrovae.evaluation.gradients import gradient_variance
from pyrovae.objectives.elbo import ELBO, reweight
from pyrovae.objectives.estimators import IWAE, FreeBits, ScoreFunctionELBO
from pyrovae.programs.pair import Pair

SEED = 5
K = 4


@pytest.fixture
def vae(make_vae):
    return make_vae().double()


@pytest.fixture
def x(binary_images):
    return binary_images.double()[:6]


def value_and_gradients(objective, pair, *args):
    """On the draws that follow from the seed."""
    torch.manual_seed(SEED)
    loss = objective.differentiable_loss(pair.model, pair.guide, *args)
    return loss, gradients(loss, pair)


def gradients(loss, module):
    parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
    found = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, found, strict=True))


def noise(*shape):
    torch.manual_seed(SEED)
    return torch.randn(*shape, dtype=torch.double)


def draw_by_hand(vae, x, num_samples=K):
    """z = loc + scale * noise, `(K, B, M)`, and its posterior."""
    q = vae.posterior(x).base_dist
    return q.loc + q.scale * noise(num_samples, *q.loc.shape), q


def log_weights_by_hand(vae, x, z, q):
    log_q = (-0.5 * ((z - q.loc) / q.scale).square() - q.scale.log()).sum(-1)
    log_p = (-0.5 * z.square()).sum(-1)  # the normalising constants cancel
    logits = vae.likelihood.network(z)
    log_px = x * logits.sigmoid().log() + (1 - x) * (-logits).sigmoid().log()
    return log_px.flatten(2).sum(-1) + log_p - log_q


# The importance-weighted bound


def test_the_bound_and_its_gradient_are_those_written_by_hand(vae, x):
    loss, found = value_and_gradients(IWAE(K), vae, x)
    by_hand = -log_weights_by_hand(vae, x, *draw_by_hand(vae, x)).exp().mean(0).log().sum()
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(found, gradients(by_hand, vae))


def test_with_one_sample_it_is_the_elbo(vae, x):
    torch.testing.assert_close(value_and_gradients(IWAE(1), vae, x), value_and_gradients(ELBO(), vae, x))


def m2_log_weights(m2, x, z, labels):
    """log p(x, y, z) - log q(z | x, y) for classes `labels`, `(*, B)`, and z of `(*, B, M)`."""
    log_q = m2.posterior(x, labels).log_prob(z)
    log_p = m2.class_prior().log_prob(labels) + m2.prior().log_prob(z)
    return log_p + m2.likelihood(z, labels).log_prob(x) - log_q


def test_an_unknown_class_is_summed_out_in_each_weight(make_m2, x):
    m2 = make_m2()
    loss, found = value_and_gradients(IWAE(K), m2, x)
    eps = noise(3, K, len(x), 2)
    terms = []
    for label in range(3):
        y = torch.full((len(x),), label)
        q = m2.posterior(x, y).base_dist
        terms.append(m2_log_weights(m2, x, q.loc + q.scale * eps[label], y))
    by_hand = -torch.stack(terms).exp().sum(0).mean(0).log().sum()
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(found, gradients(by_hand, m2))
    assert not any(value.any() for name, value in found.items() if name.startswith("classifier"))


def test_a_known_class_is_part_of_the_datum(make_m2, x, classes):
    m2, y = make_m2(), classes[:6]
    loss, found = value_and_gradients(IWAE(K), m2, x, y)
    q = m2.posterior(x, y).base_dist
    weights = m2_log_weights(m2, x, q.loc + q.scale * noise(K, len(x), 2), y)
    by_hand = -weights.exp().mean(0).log().sum()
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(found, gradients(by_hand, m2))


def test_the_terms_are_the_elbos_over_the_same_draws(vae, x):
    objective = IWAE(K)
    for _ in range(2):  # the second evaluation starts from nothing
        value_and_gradients(objective, vae, x)
    z, q = draw_by_hand(vae, x)
    bounds = log_weights_by_hand(vae, x, z, q)
    divergence = vae.posterior(x).log_prob(z) - vae.prior().log_prob(z)
    torch.testing.assert_close(objective.terms["kl"], divergence.mean(0).sum())
    elbo = objective.terms["reconstruction"] - objective.terms["kl"]
    torch.testing.assert_close(elbo, bounds.mean(0).sum())
    assert not elbo.requires_grad


@pytest.mark.parametrize("double", [False, True])
def test_a_plates_scale_multiplies_the_bound_from_outside(vae, x, double):
    def plate():
        return pyro.plate("data", 60, subsample=torch.arange(6))

    def model(x):
        with plate():
            pyro.sample("x", vae.likelihood(pyro.sample("z", vae.prior())), obs=x)

    def guide(x):
        with plate():
            pyro.sample("z", vae.posterior(x))

    loss, found = value_and_gradients(IWAE(K, double), vae, x)
    torch.manual_seed(SEED)
    scaled = IWAE(K, double).differentiable_loss(model, guide, x)
    torch.testing.assert_close(scaled, 10 * loss)
    torch.testing.assert_close(gradients(scaled / 10, vae), found)


@pytest.mark.parametrize("weights", [{"z": 0.0}, {"z": 2.0}, {"x": 3.0}])
def test_weights_of_sites_are_refused(vae, x, weights):
    weighted = reweight(vae.model, weights), reweight(vae.guide, weights)
    with pytest.raises(InputError, match=r"sites are weighted differently \(.*z: .*x: .* or use the ELBO"):
        IWAE(K).differentiable_loss(*weighted, x)
    with pytest.raises(InputError, match="weighted differently"):
        IWAE(K).differentiable_loss(vae.model, poutine.scale(vae.guide, 2.0), x)


def test_beta_in_training_is_refused(make_vae, binary_images):
    vae = make_vae()
    with pytest.raises(InputError, match="no beta, no warm-up, no weights"):
        pyrovae.fit(vae, binary_images, beta=0.5, objective=IWAE(2), progress=False)


@pytest.mark.parametrize("objective", [IWAE(2), FreeBits(0.1)], ids=["iwae", "free bits"])
def test_a_latent_that_passes_no_gradient_is_refused(objective, x):
    def program(x):
        with pyro.plate("data", len(x)):
            pyro.sample("coin", dist.Bernoulli(0.5))

    with pytest.raises(InputError, match=r"site 'coin' \(Bernoulli\) is neither reparameterised nor enum"):
        objective.differentiable_loss(program, program, x)


def test_pairs_without_a_weight_for_each_datum_are_refused(x):
    def program(x):
        pyro.sample("shared", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match="'shared' is not under a plate of 6 data"):
        IWAE(2).differentiable_loss(program, program, x)


def test_finding_the_plates_takes_nothing_from_the_random_stream(vae, x):
    used = IWAE(K)
    value_and_gradients(used, vae, x)
    torch.testing.assert_close(value_and_gradients(used, vae, x), value_and_gradients(IWAE(K), vae, x))


def test_no_sample_is_no_bound():
    for objective, count in itertools.product((IWAE, ELBO, ScoreFunctionELBO), (0, 2.5)):
        with pytest.raises(
            InputError, match=f"{count} draws for each datum: use a whole number, at least 1"
        ):
            objective(count)


# Programs of anyone's. Their parameters are in Pyro's store, and the guides are somewhat off.


def parameter(name, *values):
    return pyro.param(name, torch.tensor(values, dtype=torch.double))


def hierarchy(x):
    """z2 -> z1 -> x."""
    weight, noise = parameter("weight", 1.3, -0.4), parameter("log noise", -0.5).exp()
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(parameter("centre", 0.2), 1.0))
        z1 = pyro.sample("z1", dist.Normal(weight[0] * z2 + 0.3 * z2.square(), noise))
        pyro.sample("x", dist.Normal(z1 + weight[1], 0.7), obs=x[:, 0])


def top_down(x):
    """q(z2 | x) q(z1 | x, z2)."""
    a, b = parameter("a", 0.4, 0.1, -0.4), parameter("b", 0.4, 0.6, -0.6)
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(a[0] * x[:, 0] + a[1], a[2].exp()))
        pyro.sample("z1", dist.Normal(b[0] * x[:, 0] + b[1] * z2, b[2].exp()))


def bottom_up(x):
    """q(z1 | x) q(z2 | z1)."""
    a, b = parameter("a", 0.6, 0.1, -0.4), parameter("b", 0.5, 0.1, -0.6)
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", dist.Normal(a[0] * x[:, 0] + a[1], a[2].exp()))
        pyro.sample("z2", dist.Normal(b[0] * z1 + b[1] * z1.square(), b[2].exp()))


def encoder(x):
    """Shared by a prior and a guide, as a VampPrior shares it."""
    w = parameter("encoder", 0.5, 0.1, -0.3)
    return dist.Normal(w[0] * x + w[1], w[2].exp() * (1 + 0.2 * x.square()))


def vamp(x):
    components = encoder(parameter("pseudo-inputs", -1.0, 1.5))
    prior = dist.MixtureSameFamily(dist.Categorical(torch.ones(2, dtype=torch.double)), components)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", prior)
        pyro.sample("x", dist.Normal(parameter("slope", 1.4) * z, 0.8), obs=x[:, 0])


def vamp_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", encoder(x[:, 0]))


def traps(x):
    """A latent for each datum, and one in each of an inner plate."""
    with pyro.plate("data", len(x), dim=-1):
        hare = pyro.sample("hare", dist.Normal(parameter("mean hare", 0.3), 1.0))
        with pyro.plate("traps", 2, dim=-2):
            track = pyro.sample("track", dist.Normal(parameter("weight", 1.2) * hare, 0.8))
            pyro.sample("x", dist.Normal(track, 0.5), obs=x.T)


def traps_guide(x):
    a, b = parameter("a", 0.5, -0.5), parameter("b", 0.5, 0.4, -0.6)
    with pyro.plate("data", len(x), dim=-1):
        hare = pyro.sample("hare", dist.Normal(a[0] * x.mean(1), a[1].exp()))
        with pyro.plate("traps", 2, dim=-2):
            pyro.sample("track", dist.Normal(b[0] * x.T + b[1] * hare, b[2].exp()))


def mixture(x):
    """A class beside z, as in M2."""
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(logits=parameter("class", 0.3, -0.3)))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mean = parameter("slope", 1.2) * z + parameter("centres", -1.0, 1.2)[y]
        pyro.sample("x", dist.Normal(mean, 0.7), obs=x[:, 0])


def mixture_guide(x):
    w, offset = parameter("w", 0.4, -0.4), parameter("offset", 0.5, -0.5)
    with pyro.plate("data", len(x)):
        y = pyro.sample(
            "y", dist.Categorical(logits=x[:, :1] * parameter("lean", 0.3, -0.5)), infer=IN_PARALLEL
        )
        pyro.sample("z", dist.Normal(w[0] * x[:, 0] + offset[y], w[1].exp()))


def shared_draw(x):
    """The class comes last, so that its values share the particle's z."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        y = pyro.sample("y", dist.Categorical(logits=torch.stack([z, parameter("bias", 0.4) - z], -1)))
        mean = parameter("slope", 1.2) * z + parameter("centres", -1.0, 1.2)[y]
        pyro.sample("x", dist.Normal(mean, 0.7), obs=x[:, 0])


def shared_draw_guide(x):
    w = parameter("w", 0.4, 0.2, -0.4)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(w[0] * x[:, 0] + w[1], w[2].exp()))
        pyro.sample("y", dist.Categorical(logits=torch.stack([z, -z], -1)), infer=IN_PARALLEL)


IN_PARALLEL = {"enumerate": "parallel"}
PAIRS = {
    "hierarchy, top down": (hierarchy, top_down),
    "hierarchy, bottom up": (hierarchy, bottom_up),
    "shared encoder": (vamp, vamp_guide),
    "inner plate": (traps, traps_guide),
    "class": (mixture, mixture_guide),
    "class after the latent": (shared_draw, shared_draw_guide),
}


def points(copies):
    """Two data, often: as many independent draws of the gradient in one run."""
    return torch.tensor([[0.8, -0.2], [-1.1, 0.5]], dtype=torch.double).repeat(copies, 1)


def assert_same_mean(one, other, errors=4.5):
    assert one.mean.keys() == other.mean.keys()
    for name, mean in one.mean.items():
        error = (one.std_error[name].square() + other.std_error[name].square()).sqrt()
        assert ((mean - other.mean[name]).abs() <= errors * error + 1e-12).all(), name


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_both_gradients_of_the_bound_have_the_same_mean(pair):
    x = points(400)
    plain, double = (
        gradient_variance(IWAE(3, doubly), Pair(*pair), x, repeats=120, seed=doubly)
        for doubly in (False, True)
    )
    assert_same_mean(double, plain)
    # Small enough errors to tell v^2 from v.
    assert max(error.max() for error in double.std_error.values()) < 0.01


# The doubly reparameterised gradient


def test_the_model_gets_its_plain_gradient_and_the_guide_the_squared_shares(vae, x):
    loss, found = value_and_gradients(IWAE(K, doubly_reparameterised=True), vae, x)
    plain_loss, plain = value_and_gradients(IWAE(K), vae, x)
    torch.testing.assert_close(loss, plain_loss)
    z, q = draw_by_hand(vae, x)
    fixed = dist.Normal(q.loc.detach(), q.scale.detach())
    log_weights = log_weights_by_hand(vae, x, z, fixed)
    (path,) = torch.autograd.grad(log_weights.sum(), z, retain_graph=True)
    shares = log_weights.detach().softmax(0)
    by_hand = gradients(-(shares.square()[..., None] * path * z).sum(), vae)
    for name, value in found.items():
        expected = by_hand[name] if name.startswith("posterior") else plain[name]
        torch.testing.assert_close(value, expected)


def test_it_is_less_noisy_for_the_guide_and_the_more_so_the_more_samples_there_are(make_ppca, draw):
    ppca = make_ppca(2, 5, spread=1.5)  # wider than the posterior, so that the weights are bounded
    x = draw(ppca, 6)
    gained = []
    for num_samples in (4, 64):
        plain, double = (gradient_variance(IWAE(num_samples, d), ppca, x) for d in (False, True))
        assert_same_mean(double, plain)
        ours, theirs = double.of("posterior"), plain.of("posterior")
        assert ours.signal_to_noise > theirs.signal_to_noise
        gained.append(theirs.total_variance / ours.total_variance)
        by_rounding = pytest.approx(plain.of("likelihood").total_variance, rel=1e-9)
        assert double.of("likelihood").total_variance == by_rounding
    assert gained[1] > 2 * gained[0] > 4


def test_with_the_exact_posterior_as_guide_its_gradient_is_nothing_but_rounding(make_ppca, draw):
    ppca = make_ppca(3, 7, spread=1.0)
    x = draw(ppca, 6)
    for doubly, largest in ((True, 1e-9), (False, math.inf)):
        _, found = value_and_gradients(IWAE(K, doubly), ppca, x)
        guide = torch.cat([v.flatten() for name, v in found.items() if name.startswith("posterior")])
        assert guide.abs().max() < largest
    assert guide.abs().max() > 0.1  # the plain one is noise


def test_without_gradients_there_is_only_the_value(vae, x):
    torch.manual_seed(SEED)
    plain = IWAE(K).loss(vae.model, vae.guide, x)
    torch.manual_seed(SEED)
    assert IWAE(K, doubly_reparameterised=True).loss(vae.model, vae.guide, x) == pytest.approx(plain)


def test_classes_between_latents_need_the_plain_gradient(make_m1m2, x, classes):
    m1m2 = make_m1m2()
    with pytest.raises(InputError, match=r"\['y'\] is enumerated after some of the latents \['z1', 'z2'\]"):
        IWAE(K, doubly_reparameterised=True).differentiable_loss(m1m2.model, m1m2.guide, x)
    IWAE(K, doubly_reparameterised=True).differentiable_loss(m1m2.model, m1m2.guide, x, classes[:6])
    _, found = value_and_gradients(IWAE(K), m1m2, x)
    assert all(value.any() for name, value in found.items() if name.startswith("vae.posterior"))


def test_a_flow_without_an_inverse_needs_the_plain_gradient(x):
    flow = dist.transforms.Planar(2).double()

    def guide(x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[:, 0, 0, :2])

    assert IWAE(K).differentiable_loss(model, guide, x).isfinite()
    with pytest.raises(InputError, match=r"score the draws of the first, which a flow without an inverse"):
        IWAE(K, doubly_reparameterised=True).differentiable_loss(model, guide, x)


# The score function


def test_the_score_function_has_the_same_mean_gradient_and_more_noise(vae, x):
    x = x[:2].repeat(1000, 1, 1, 1)
    score, path = (
        gradient_variance(objective, vae, x, repeats=60) for objective in (ScoreFunctionELBO(), ELBO())
    )
    assert_same_mean(score, path)
    assert score.of("posterior").total_variance > 5 * path.of("posterior").total_variance
    assert score.of("posterior").signal_to_noise < path.of("posterior").signal_to_noise
    assert score.of("posterior").signal_to_noise * 60**0.5 > 5  # it is a mean, not noise


def test_the_score_functions_gradient_is_the_datums_own_bound_times_its_score(vae, x):
    loss, found = value_and_gradients(ScoreFunctionELBO(), vae, x)
    (z,), q = draw_by_hand(vae, x, 1)
    z = z.detach()
    bound = log_weights_by_hand(vae, x, z[None], q)[0]
    torch.testing.assert_close(loss, -bound.sum())
    log_q = dist.Normal(q.loc, q.scale).log_prob(z).sum(-1)
    # E[d log q] = 0: Pyro leaves that term of the entropy out.
    expected = gradients(-(bound + (1 + bound.detach()) * log_q).sum(), vae)
    torch.testing.assert_close(found, expected)


def test_a_flow_is_scored_at_the_value_and_not_by_its_draw():
    x = points(200)
    stretch = torch.tensor(0.3).double().requires_grad_()

    def guide(x):
        transform = dist.transforms.AffineTransform(parameter("a", 0.2), stretch.exp(), cache_size=1)
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(len(x)).double(), 1.0)
            pyro.sample("z", dist.TransformedDistribution(base, [transform]))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.8), obs=x[:, 0])

    score, path = (
        gradient_variance(objective, Pair(model, guide), x, repeats=100)
        for objective in (ScoreFunctionELBO(), ELBO())
    )
    assert_same_mean(score, path)
    assert path.mean["a"].abs() > 0.1


def test_discrete_latents_are_drawn_and_enumerated_ones_refused(make_m2, x):
    m2 = make_m2()
    with pytest.raises(InputError, match=r"\['y'\] is enumerated, with which the score function does not"):
        ScoreFunctionELBO().differentiable_loss(m2.model, m2.guide, x)

    def drawn_guide(x):
        with poutine.infer_config(config_fn=lambda site: {"enumerate": None}):
            mixture_guide(x)

    score = gradient_variance(ScoreFunctionELBO(), Pair(mixture, drawn_guide), points(200))
    exact = gradient_variance(ELBO(), Pair(mixture, mixture_guide), points(200))
    assert_same_mean(score, exact)
    assert exact.mean["lean"].abs().max() > 0.1


# Free bits


def test_without_a_floor_it_is_the_elbo_with_its_divergence_in_closed_form(vae, x):
    objective = FreeBits(0.0)
    loss, found = value_and_gradients(objective, vae, x)
    torch.manual_seed(SEED)
    mean_field = TraceMeanField_ELBO().differentiable_loss(vae.model, vae.guide, x)
    torch.testing.assert_close(loss, mean_field)
    torch.testing.assert_close(found, gradients(mean_field, vae))
    divergence = kl_divergence(vae.posterior(x), vae.prior().expand((6,))).sum().detach()
    torch.testing.assert_close(objective.terms["kl"], divergence)
    torch.testing.assert_close(objective.terms["reconstruction"] - objective.terms["kl"], -loss.detach())


def divergences(vae, x):
    """KL_j of each dimension, averaged over the batch, by hand."""
    q = vae.posterior(x).base_dist
    return (0.5 * (q.loc.square() + q.scale.square() - 1) - q.scale.log()).mean(0)


def test_each_site_or_dimension_enters_with_its_divergence_or_the_floor(vae, x):
    with torch.no_grad():
        vae.posterior.loc.bias[0] = 2.0
    low, high = divergences(vae, x).detach().sort().values
    assert high > 2 * low > 0
    for nats in (0.5 * low, (low + high) / 2, high + 0.5, low + high + 0.5):
        for per in ("site", "dimension"):
            torch.manual_seed(SEED)
            plain = FreeBits(0.0).differentiable_loss(vae.model, vae.guide, x)
            parts = divergences(vae, x)
            reconstruction, parts = plain - 6 * parts.sum(), parts.sum() if per == "site" else parts
            expected = reconstruction + 6 * torch.where(parts > nats, parts, nats).sum()
            objective = FreeBits(nats.item(), per)
            loss, found = value_and_gradients(objective, vae, x)
            torch.testing.assert_close(loss, expected)
            torch.testing.assert_close(found, gradients(expected, vae))
            torch.testing.assert_close(objective.terms["kl"], 6 * divergences(vae, x).sum().detach())


def test_below_the_floor_a_divergence_has_no_gradient(vae, x):
    _, found = value_and_gradients(FreeBits(100.0), vae, x)
    weights = {"z": 0.0}
    torch.manual_seed(SEED)
    loss = ELBO().differentiable_loss(reweight(vae.model, weights), reweight(vae.guide, weights), x)
    torch.testing.assert_close(found, gradients(loss, vae))


def test_beta_multiplies_the_floored_divergence(vae, x):
    nats, weights = 0.5 * divergences(vae, x).sum().item(), {"z": 3.0}
    loss, _ = value_and_gradients(FreeBits(nats), vae, x)
    torch.manual_seed(SEED)
    weighted = FreeBits(nats).differentiable_loss(
        reweight(vae.model, weights), reweight(vae.guide, weights), x
    )
    torch.testing.assert_close(weighted - loss, 2 * 6 * divergences(vae, x).sum())
    with pytest.raises(InputError, match=r"'z' has weight 1.0 in the model and 3.0 in the guide"):
        FreeBits(nats).differentiable_loss(vae.model, reweight(vae.guide, weights), x)


def test_where_there_is_no_closed_form_the_draw_stands_for_it(param_store):
    x = points(3)
    losses = []
    for objective in (FreeBits(0.0), Trace_ELBO()):
        torch.manual_seed(SEED)
        losses.append(objective.differentiable_loss(vamp, vamp_guide, x))
    torch.testing.assert_close(*losses)


def test_classes_are_summed_out_of_the_divergences(make_m2, x):
    m2 = make_m2()
    objective = FreeBits(0.0)
    loss, found = value_and_gradients(objective, m2, x)
    eps, q_y = noise(3, len(x), 2), m2.classifier(x)
    by_hand = kl_divergence(q_y, m2.class_prior()).sum()
    torch.manual_seed(SEED)
    for label in range(3):
        y, probability = torch.full((len(x),), label), q_y.probs[:, label]
        q = m2.posterior(x, y)
        z = q.base_dist.loc + q.base_dist.scale * eps[label]
        by_hand = by_hand + (probability * kl_divergence(q, m2.prior())).sum()
        by_hand = by_hand - (probability * m2.likelihood(z, y).log_prob(x)).sum()
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(found, gradients(by_hand, m2))
    loss, _ = value_and_gradients(FreeBits(0.0, "dimension"), m2, x)
    torch.testing.assert_close(loss, by_hand)


@pytest.mark.parametrize("guide", [top_down, bottom_up])
@pytest.mark.parametrize("per", ["site", "dimension"])
def test_the_closed_form_is_used_only_for_what_it_is_the_divergence_of(guide, per, param_store):
    """In the guide that draws z1 before z2, p(z1 | z2) varies with z1 through z2."""
    x = points(5000)
    with torch.no_grad():
        mine, elbo = FreeBits(0.0, per), ELBO()
        losses = [
            torch.stack([o.differentiable_loss(hierarchy, guide, x) for _ in range(10)]) / len(x)
            for o in (mine, elbo)
        ]
    error = math.hypot(*(part.std().item() for part in losses)) / 10**0.5
    assert error < 0.02
    assert abs(losses[0].mean().item() - losses[1].mean().item()) < 4 * error


def test_dimensions_that_are_not_independent_are_not_told_apart(make_ppca, draw):
    ppca = make_ppca()
    x = draw(ppca, 4)
    with pytest.raises(InputError, match="'z' has a MultivariateNormal, which is not independent"):
        FreeBits(0.1, "dimension").differentiable_loss(ppca.model, ppca.guide, x)
    assert FreeBits(0.1).differentiable_loss(ppca.model, ppca.guide, x).isfinite()


@pytest.mark.parametrize(
    ("settings", "message"),
    [((-0.1,), "nats is -0.1"), ((math.nan,), "nats is nan"), ((0.1, "pixel"), "per is 'pixel'")],
)
def test_floors_that_are_none_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        FreeBits(*settings)


# In training


OBJECTIVES = {
    "iwae": partial(IWAE, 5),
    "dreg": partial(IWAE, 5, doubly_reparameterised=True),
    "score function": ScoreFunctionELBO,
    "free bits": partial(FreeBits, 0.3),
    "free bits per dimension": partial(FreeBits, 0.1, "dimension"),
}
every_objective = pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)


@every_objective
def test_every_objective_trains_and_resumes(make, make_vae, binary_images, tmp_path):
    def train(folder, epochs, **settings):
        vae = make_vae()
        history = pyrovae.fit(
            vae,
            binary_images,
            epochs=epochs,
            batch_size=12,
            objective=make(),
            optimizer=partial(torch.optim.Adam, lr=0.03),
            folder=tmp_path / folder,
            progress=False,
            **settings,
        )
        return vae, history

    whole, history = train("whole", 12)
    assert sum(history["loss"][-4:]) < sum(history["loss"][:4])
    assert {"elbo", "reconstruction", "kl"} <= history.rows[0].keys()
    train("halves", 5)
    resumed, _ = train("halves", 12, resume=True)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


@every_objective
def test_pyros_own_inference_takes_the_same_gradient(make, vae, x, param_store):
    _, expected = value_and_gradients(make(), vae, x)
    before = {name: value.detach().clone() for name, value in vae.named_parameters()}
    svi = SVI(vae.model, vae.guide, pyro.optim.SGD({"lr": 1.0}), make())
    torch.manual_seed(SEED)
    svi.step(x)
    for name, value in vae.named_parameters():
        torch.testing.assert_close(before[name] - value, expected[name])


def test_m2_trains_on_labelled_and_unlabelled_data_with_its_classifier_left_out(make_m2, binary_images):
    m2 = make_m2()
    m2.classifier.requires_grad_(False)
    y = torch.where(torch.arange(24) < 9, torch.arange(24) % 3, -1)
    history = pyrovae.fit(
        m2,
        binary_images.double(),
        y,
        epochs=10,
        batch_size=12,
        objective=IWAE(3, doubly_reparameterised=True),
        optimizer=partial(torch.optim.Adam, lr=0.01),
        progress=False,
    )
    assert history["loss"][-1] < history["loss"][0]
