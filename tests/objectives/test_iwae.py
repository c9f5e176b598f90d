"""The importance-weighted bound, against the same written by hand."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import (
    SEED,
    K,
    draw_by_hand,
    evaluated,
    gradients,
    log_weights_by_hand,
    noise,
    value_and_gradients,
)
from pyro import poutine

import pyrovae
from pyrovae.errors import InputError
from pyrovae.objectives import ELBO, IWAE, FreeBits, ScoreFunctionELBO, reweight

pytestmark = pytest.mark.cpu


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
        bound = evaluated(objective, vae, x)
    z, q = draw_by_hand(vae, x)
    bounds = log_weights_by_hand(vae, x, z, q)
    divergence = vae.posterior(x).log_prob(z) - vae.prior().log_prob(z)
    torch.testing.assert_close(bound.terms["kl"], divergence.mean(0).sum())
    elbo = bound.terms["reconstruction"] - bound.terms["kl"]
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


def test_finding_the_plates_takes_nothing_from_the_random_stream(vae, x):
    used = IWAE(K)
    value_and_gradients(used, vae, x)
    torch.testing.assert_close(value_and_gradients(used, vae, x), value_and_gradients(IWAE(K), vae, x))


def test_no_sample_is_no_bound():
    for objective, count in itertools.product((IWAE, ELBO, ScoreFunctionELBO), (0, 2.5)):
        with pytest.raises(
            InputError, match=f"draws for each datum is {count}; .*whole number of at least 1"
        ):
            objective(count)
