"""Classes that are known for some rows and enumerated for the others, and enumeration by several draws."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import SEED, noise
from enumerated_programs import loss_and_gradients, nothing
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from small_programs import IN_PARALLEL, parameter

from pyrovae.errors import InputError
from pyrovae.objectives import ELBO, IWAE, FreeBits
from pyrovae.programs import Pair

ROWS = 8
X = torch.linspace(-2.0, 2.0, ROWS).double()
Y = torch.arange(ROWS) % 3
KNOWN = torch.arange(ROWS) % 2 == 0


def priors():
    return dist.Categorical(logits=parameter("class", 0.3, -0.3, 0.1))


def likelihood(y):
    return dist.Normal(parameter("centres", -1.0, 0.2, 1.2)[y], 0.7)


def q_of_class(x):
    return dist.Categorical(logits=x[:, None] * parameter("lean", 0.3, -0.5, 0.1))


def two_sites(x):
    with pyro.plate("data", len(x)):
        with poutine.mask(mask=KNOWN):
            pyro.sample("known", priors(), obs=Y)
        with poutine.mask(mask=~KNOWN):
            y = pyro.sample("y", priors())
        pyro.sample("x", likelihood(torch.where(KNOWN, Y, y)), obs=x)


def two_sites_guide(x):
    with pyro.plate("data", len(x)), poutine.mask(mask=~KNOWN):
        pyro.sample("y", q_of_class(x), infer=IN_PARALLEL)


def by_obs_mask(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", priors(), obs=Y, obs_mask=KNOWN)
        pyro.sample("x", likelihood(y), obs=x)


def by_obs_mask_guide(x):
    with pyro.plate("data", len(x)), poutine.mask(mask=~KNOWN):
        pyro.sample("y_unobserved", q_of_class(x), infer=IN_PARALLEL)


def masked_distributions(x):
    with pyro.plate("data", len(x)):
        pyro.sample("known", priors().mask(KNOWN), obs=Y)
        y = pyro.sample("y", priors().mask(~KNOWN))
        pyro.sample("x", likelihood(torch.where(KNOWN, Y, y)), obs=x)


def masked_distributions_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("y", q_of_class(x).mask(~KNOWN), infer=IN_PARALLEL)


PAIRS = {
    "two sites": (two_sites, two_sites_guide),
    "obs_mask": (by_obs_mask, by_obs_mask_guide),
    "masked distributions": (masked_distributions, masked_distributions_guide),
}
every_pair = pytest.mark.parametrize("name", PAIRS)


def with_view(pair):
    """The pair with a second enumerated class, on which a further observation depends."""
    model, guide = pair

    def also(x):
        model(x)
        with pyro.plate("views", len(x)):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.3).double()))
            pyro.sample("view", dist.Normal(c, 1.0), obs=x)

    def also_guide(x):
        guide(x)
        with pyro.plate("views", len(x)):
            pyro.sample("c", dist.Bernoulli(logits=0.5 * x), infer=IN_PARALLEL)

    return also, also_guide


def joint(x):
    """log p(x, y) of each row and class."""
    return likelihood(torch.arange(3)).log_prob(x[:, None]) + priors().logits


def bound_of_rows(x):
    log_p, log_q = joint(x), q_of_class(x).logits
    unknown = (log_q.exp() * (log_p - log_q)).sum(1)
    return torch.where(KNOWN, log_p.gather(1, Y[:, None])[:, 0], unknown)


def evidence_of_rows(x):
    return torch.where(KNOWN, joint(x).gather(1, Y[:, None])[:, 0], joint(x).logsumexp(1))


def gradients_of(value):
    names = ["class", "centres", "lean"]
    parameters = [parameter(name) for name in names]
    return torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)


@every_pair
@pytest.mark.parametrize("objective", [ELBO(), FreeBits(0.0)], ids=["elbo", "free bits"])
def test_a_known_row_counts_once(name, objective, param_store):
    expected = bound_of_rows(X).sum()
    bound = objective.evaluate(Pair(*PAIRS[name]), X)
    torch.testing.assert_close(-bound.loss, expected)
    torch.testing.assert_close(gradients_of(-bound.loss), gradients_of(expected))
    torch.testing.assert_close(bound.terms["reconstruction"] - bound.terms["kl"], expected.detach())
    log_q = q_of_class(X).logits
    kl = (log_q.exp() * (log_q - priors().logits)).sum(1)[~KNOWN].sum().detach()
    torch.testing.assert_close(bound.terms["kl"], kl)


@every_pair
def test_a_known_row_counts_once_in_importance_weights(name, param_store):
    for double in (False, True):
        expected = evidence_of_rows(X).sum()
        bound = IWAE(3, double).evaluate(Pair(*PAIRS[name]), X)
        torch.testing.assert_close(-bound.loss, expected)
        torch.testing.assert_close(gradients_of(-bound.loss), gradients_of(expected))


@every_pair
def test_a_known_row_counts_once_beside_a_further_class(name, param_store):
    pair = with_view(PAIRS[name])
    log_p = torch.stack(
        [dist.Normal(c, 1.0).log_prob(X) + math.log(p) for c, p in ((0.0, 0.7), (1.0, 0.3))], -1
    )
    log_q = torch.stack([(-0.5 * X).sigmoid().log(), (0.5 * X).sigmoid().log()], -1)
    expected = bound_of_rows(X).sum() + (log_q.exp() * (log_p - log_q)).sum()
    torch.testing.assert_close(-ELBO().evaluate(Pair(*pair), X).loss, expected)


@every_pair
def test_a_known_row_counts_once_where_only_the_model_has_the_class(name, param_store):
    bound = ELBO().evaluate(Pair(PAIRS[name][0], nothing), X)
    expected = evidence_of_rows(X).sum()
    torch.testing.assert_close(-bound.loss, expected)
    torch.testing.assert_close(gradients_of(-bound.loss), gradients_of(expected))


SEVERAL = IN_PARALLEL | {"num_samples": 5}


def drawn_class(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", priors())
        pyro.sample("x", likelihood(y), obs=x)


def drawn_class_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("y", q_of_class(x), infer=SEVERAL)


def drawn_normal(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
        pyro.sample("x", dist.Normal(z, 0.7), obs=x)


def drawn_normal_guide(x):
    w = parameter("w", 0.3, -0.2)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(w[0] * x, w[1].exp()), infer=SEVERAL)


def log_weights_of_draws():
    """log p(x, z) - log q(z), `(S, B)`, of the draws that follow from the seed."""
    w = parameter("w", 0.3, -0.2)
    q = dist.Normal(w[0] * X, w[1].exp())
    z = q.loc + q.scale * noise(5, ROWS)
    return dist.Normal(z, 0.7).log_prob(X) + dist.Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)


def test_draws_in_the_place_of_enumeration_count_by_their_number(param_store):
    """Pyro's `num_samples`: each of S draws counts 1/S."""
    pair = drawn_class, drawn_class_guide
    pyros = loss_and_gradients(TraceEnum_ELBO(max_plate_nesting=1), pair, X)
    torch.testing.assert_close(loss_and_gradients(ELBO(), pair, X), pyros)
    torch.manual_seed(SEED)
    bound = ELBO().evaluate(Pair(*pair), X)
    torch.testing.assert_close(bound.terms["reconstruction"] - bound.terms["kl"], -bound.loss.detach())


def test_draws_with_a_gradient_count_by_their_number(param_store):
    torch.manual_seed(SEED)
    bound = ELBO().evaluate(Pair(drawn_normal, drawn_normal_guide), X)
    expected = log_weights_of_draws().mean(0).sum()
    torch.testing.assert_close(-bound.loss, expected)
    found, by_hand = (torch.autograd.grad(v, parameter("w")) for v in (-bound.loss, expected))
    torch.testing.assert_close(found, by_hand)
    torch.testing.assert_close(bound.terms["reconstruction"] - bound.terms["kl"], expected.detach())


def test_the_mean_over_draws_is_the_bound_of_full_enumeration(param_store):
    x = X.repeat(500)
    with torch.no_grad():
        found = -ELBO().evaluate(Pair(drawn_class, drawn_class_guide), x).loss / len(x)
        log_q = q_of_class(X).logits
        exact = (log_q.exp() * (joint(X) - log_q)).sum(1)
        spread = (log_q.exp() * (joint(X) - log_q - exact[:, None]).square()).sum(1).mean().sqrt()
    assert abs(found - exact.mean()) < 4 * spread / (5 * len(x)) ** 0.5


def test_draws_in_the_place_of_enumeration_are_particles_of_importance_weights(param_store):
    torch.manual_seed(SEED)
    loss = IWAE(1).evaluate(Pair(drawn_normal, drawn_normal_guide), X).loss
    torch.testing.assert_close(-loss, (log_weights_of_draws().logsumexp(0) - math.log(5)).sum())
    with pytest.raises(InputError, match=r"'y' stands for draws that pass no gradient \(num_samples.*ELBO"):
        IWAE(2).evaluate(Pair(drawn_class, drawn_class_guide), X)


def test_draws_of_a_latent_of_the_model_alone_are_refused(param_store):
    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", priors(), infer=SEVERAL)
            pyro.sample("x", likelihood(y), obs=x)

    with pytest.raises(InputError, match=r"model's site 'y' has .*num_samples.*Remove num_samples"):
        ELBO().evaluate(Pair(model, nothing), X)
