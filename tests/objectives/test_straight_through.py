"""Straight-through draws, which their distribution scores by the relaxed value that they carry."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import SEED
from enumerated_programs import loss_and_gradients
from pyro.distributions.relaxed_straight_through import QuantizeCategorical
from small_programs import parameter

from pyrovae.evaluation.gradients import gradient_variance
from pyrovae.objectives import ELBO, IWAE, ScoreFunctionELBO
from pyrovae.programs import Pair

pytestmark = pytest.mark.cpu

K = 3
X = torch.linspace(-2.0, 2.0, 5).double()
TEMPERATURE = torch.tensor(0.7).double()


def relaxed(logits):
    return dist.RelaxedOneHotCategoricalStraightThrough(TEMPERATURE, logits=logits)


def posterior(x):
    return relaxed(x[..., None] * parameter("lean", 0.3, -0.5, 0.4))


def model(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", relaxed(parameter("class", 0.3, -0.3, 0.1)))
        pyro.sample("x", dist.Normal(y @ parameter("centres", -1.0, 0.2, 1.2), 0.7), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("y", posterior(x))


def bernoulli_model(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample(
            "y", dist.RelaxedBernoulliStraightThrough(TEMPERATURE, logits=parameter("class", 0.3))
        )
        pyro.sample("x", dist.Normal(y * parameter("centre", 1.2), 0.7), obs=x)


def bernoulli_guide(x):
    with pyro.plate("data", len(x)):
        logits = x * parameter("lean", 0.6)
        pyro.sample("y", dist.RelaxedBernoulliStraightThrough(TEMPERATURE, logits=logits))


def log_weights_by_hand(x, fixed=False):
    """log p(x, y) - log q(y), `(K, B)`, and the relaxed draws."""
    q = posterior(x).expand((K, len(x)))
    torch.manual_seed(SEED)
    y = q.rsample()
    soft = y._unquantize
    q = relaxed(q.logits.detach()) if fixed else q
    hard = QuantizeCategorical.apply(soft)
    log_p = relaxed(parameter("class")).log_prob(hard)
    log_p = log_p + dist.Normal(hard @ parameter("centres"), 0.7).log_prob(x)
    return log_p - q.log_prob(hard), soft


def test_the_plain_gradient_passes_through_the_relaxed_draw(param_store):
    loss, found = loss_and_gradients(IWAE(K), (model, guide), X)
    by_hand = -log_weights_by_hand(X)[0].exp().mean(0).log().sum()
    torch.testing.assert_close(loss, by_hand.detach())
    for name, value in found.items():
        (expected,) = torch.autograd.grad(by_hand, parameter(name), retain_graph=True)
        torch.testing.assert_close(value, expected)


def test_the_doubly_reparameterised_gradient_squares_the_shares_on_its_way(param_store):
    loss, found = loss_and_gradients(IWAE(K, True), (model, guide), X)
    log_weights, soft = log_weights_by_hand(X, fixed=True)
    torch.testing.assert_close(loss, -log_weights.exp().mean(0).log().sum().detach())
    (path,) = torch.autograd.grad(log_weights.sum(), soft, retain_graph=True)
    shares = log_weights.detach().softmax(0)
    (expected,) = torch.autograd.grad(-(shares.square()[..., None] * path * soft).sum(), parameter("lean"))
    torch.testing.assert_close(found["lean"], expected)
    plain = loss_and_gradients(IWAE(K), (model, guide), X)[1]
    for name in ("class", "centres"):
        torch.testing.assert_close(found[name], plain[name])


@pytest.mark.parametrize("pair", [(model, guide), (bernoulli_model, bernoulli_guide)], ids=["class", "bit"])
@pytest.mark.parametrize("objective", [IWAE(3), IWAE(3, True), ScoreFunctionELBO()])
def test_every_objective_has_the_density_of_the_relaxed_draw(pair, objective, param_store):
    """One draw has one bound, whichever way its gradient is taken."""
    x = X.repeat(300)
    with torch.no_grad():
        torch.manual_seed(SEED)
        found = objective.evaluate(Pair(*pair), x)
        torch.manual_seed(SEED)
        terms = ELBO(objective.num_particles, vectorize_particles=True).evaluate(Pair(*pair), x).terms
    torch.testing.assert_close(found.terms, terms)
    _, gradients = loss_and_gradients(objective, pair, x)
    assert all(value.isfinite().all() and value.any() for value in gradients.values())


def test_the_score_function_has_the_gradient_of_the_bound(param_store):
    """The mean of the score function's gradient is the difference quotient of the bound."""
    programs = Pair(lambda x: model(x[:, 0]), lambda x: guide(x[:, 0]))
    x, step = X.repeat(400)[:, None], 0.3
    model(X), guide(X)
    found = gradient_variance(ScoreFunctionELBO(), programs, x, repeats=15)
    ends = []
    with torch.no_grad():
        for sign in (1, -1):
            parameter("lean")[0] += sign * step
            ends.append(torch.stack([ELBO().evaluate(programs, x).loss for _ in range(30)]) / len(x))
            parameter("lean")[0] -= sign * step
    slope = (ends[0].mean() - ends[1].mean()) / (2 * step)
    error = ((ends[0].var() + ends[1].var()) / 30).sqrt() / (2 * step)
    assert abs(found.mean["lean"][0] - slope) < 4 * (error + found.std_error["lean"][0])
    assert abs(slope) > 4 * error
