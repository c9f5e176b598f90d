"""Factors, observed and auxiliary sites of guides, against densities by hand and Pyro's Trace_ELBO."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import SEED, noise
from enumerated_programs import loss_and_gradients
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from small_programs import IN_PARALLEL, assert_same_mean, parameter

from pyrovae.errors import InputError
from pyrovae.evaluation.gradients import gradient_variance
from pyrovae.objectives import ELBO, IWAE, FreeBits, ScoreFunctionELBO
from pyrovae.programs import Pair

pytestmark = pytest.mark.cpu

X = torch.linspace(-2.0, 2.0, 7).double()
CLASS = torch.arange(7) % 2


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
        pyro.sample("x", dist.Normal(parameter("slope", 1.2) * z, 0.8), obs=x)


def posterior(x):
    w = parameter("w", 0.4, 0.1, -0.5)
    return dist.Normal(w[0] * x + w[1], w[2].exp())


def plain_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", posterior(x))


def stated(x, has_rsample=True, detach=False):
    """The density of z is stated by a factor."""
    q = posterior(x)
    z = q.loc + q.scale * torch.randn(len(x), dtype=torch.double)
    z = z.detach() if detach else z
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Delta(z))
        pyro.factor("log q", q.log_prob(z), has_rsample=has_rsample)


def classifier(x):
    return dist.Bernoulli(logits=parameter("c", 0.5, -0.2)[0] * x + parameter("c")[1])


def with_loss(x, has_rsample=True):
    """A classification loss, as scANVI's."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", posterior(x))
        log_prob = classifier(x).log_prob(CLASS.double())
        pyro.factor("classification", -3.0 * log_prob, has_rsample=has_rsample)


def with_observation(x, family):
    """A site that the guide observes, as CEVAE's."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", posterior(x))
        fn = classifier(x) if family == "bernoulli" else dist.Normal(parameter("c", 0.5, -0.2)[0] * x, 1.0)
        pyro.sample("t", fn, obs=CLASS.double(), infer={"is_auxiliary": True})


def bound_by_hand(x, z):
    q = posterior(x)
    log_p = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(parameter("slope", 1.2) * z, 0.8).log_prob(x)
    return log_p - q.log_prob(z)


def mean_gradient(model, guide):
    """The mean of the ELBO's gradient on many copies of the data, with its error."""
    pair = Pair(lambda x: model(x[:, 0]), lambda x: guide(x[:, 0]))
    return gradient_variance(ELBO(), pair, X.repeat(300)[:, None], repeats=40)


def gradients_of(value, *names):
    return torch.autograd.grad(value, [parameter(name) for name in names])


def test_a_density_that_a_factor_states_is_part_of_log_q(param_store):
    expected = loss_and_gradients(ELBO(), (model, plain_guide), X)
    torch.testing.assert_close(loss_and_gradients(ELBO(), (model, stated), X), expected)
    torch.manual_seed(SEED)
    plain = ELBO().evaluate(Pair(model, plain_guide), X).terms
    torch.manual_seed(SEED)
    torch.testing.assert_close(ELBO().evaluate(Pair(model, stated), X).terms, plain)


def test_a_density_of_draws_without_gradient_gets_the_score_function(param_store):
    guide = functools.partial(stated, has_rsample=False, detach=True)
    torch.manual_seed(SEED)
    bound = ELBO().evaluate(Pair(model, guide), X)
    q = posterior(X)
    z = (q.loc + q.scale * noise(7)).detach()
    by_hand = bound_by_hand(X, z)
    torch.testing.assert_close(-bound.loss, by_hand.sum())
    (found,) = gradients_of(-bound.loss, "w")
    (score,) = gradients_of((by_hand.detach() * q.log_prob(z)).sum(), "w")
    torch.testing.assert_close(found, score)


def test_its_mean_is_the_gradient_through_reparameterised_draws(param_store):
    guide = functools.partial(stated, has_rsample=False, detach=True)
    score, path = (mean_gradient(model, g) for g in (guide, plain_guide))
    assert_same_mean(score, path)
    assert path.mean["w"].abs().max() > 0.1


def test_a_factor_that_contradicts_its_draw_is_refused_and_the_remedies_work(param_store):
    contradiction = functools.partial(stated, has_rsample=False)
    with pytest.raises(InputError, match=r"'log q' has has_rsample=False.*Delta at site 'z'.*=True"):
        ELBO().evaluate(Pair(model, contradiction), X)
    for guide in (stated, functools.partial(stated, has_rsample=False, detach=True)):
        assert ELBO().evaluate(Pair(model, guide), X).loss.isfinite()
    torch.manual_seed(SEED)
    with torch.no_grad():  # no gradient, no contradiction
        loss = ELBO().evaluate(Pair(model, contradiction), X).loss
    torch.manual_seed(SEED)
    torch.testing.assert_close(loss, ELBO().evaluate(Pair(model, plain_guide), X).loss.detach())


@pytest.mark.parametrize("has_rsample", [True, False])
def test_a_classification_loss_trains_by_its_own_gradient(has_rsample, param_store):
    guide = functools.partial(with_loss, has_rsample=has_rsample)
    torch.manual_seed(SEED)
    bound = ELBO().evaluate(Pair(model, guide), X)
    q = posterior(X)
    added = 3.0 * classifier(X).log_prob(CLASS.double()).sum()
    by_hand = bound_by_hand(X, q.loc + q.scale * noise(7)).sum() + added
    torch.testing.assert_close(-bound.loss, by_hand)
    found, expected = (gradients_of(v, "w", "slope", "c") for v in (-bound.loss, by_hand))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(bound.terms["reconstruction"] - bound.terms["kl"], by_hand.detach())
    torch.manual_seed(SEED)
    torch.testing.assert_close(bound.loss.item(), Trace_ELBO().loss(model, guide, X))


def test_a_classification_loss_stands_outside_of_importance_weights(param_store):
    torch.manual_seed(SEED)
    plain = IWAE(4).evaluate(Pair(model, plain_guide), X)
    torch.manual_seed(SEED)
    bound = IWAE(4).evaluate(Pair(model, with_loss), X)
    added = 3.0 * classifier(X).log_prob(CLASS.double()).sum()
    torch.testing.assert_close(bound.loss, plain.loss - added)
    with pytest.raises(InputError, match=r"doubly reparameterised.*'classification', a training term"):
        IWAE(4, True).evaluate(Pair(model, with_loss), X)
    with pytest.raises(InputError, match=r"'classification' that is no latent of the model.*use the ELBO"):
        FreeBits(0.1).evaluate(Pair(model, with_loss), X)


@pytest.mark.parametrize("family", ["bernoulli", "normal"])
def test_an_observed_site_of_the_guide_enters_as_in_pyros_objective(family, param_store):
    """Pyro subtracts its log density. Its value is given, so the gradient is the loss's own."""
    guide = functools.partial(with_observation, family=family)
    torch.manual_seed(SEED)
    bound = ELBO().evaluate(Pair(model, guide), X)
    torch.manual_seed(SEED)
    torch.testing.assert_close(bound.loss.item(), Trace_ELBO().loss(model, guide, X))
    log_prob = poutine.trace(guide).get_trace(X).nodes["t"]
    log_prob = log_prob["fn"].log_prob(log_prob["value"]).sum()
    found, expected = (gradients_of(v, "c") for v in (bound.loss, log_prob))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(bound.terms["reconstruction"] - bound.terms["kl"], -bound.loss.detach())


def test_a_training_term_beside_an_enumerated_class_keeps_the_gradient_of_the_loss(param_store):
    """Pyro's TraceEnum_ELBO has the same loss, but takes the term for the density of a draw."""

    def class_model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=parameter("class", 0.3, -0.3)))
            pyro.sample("x", dist.Normal(parameter("centres", -1.0, 1.2)[y], 0.7), obs=x)

    def guide(x):
        logits = x[:, None] * parameter("lean", 0.3, -0.5)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=logits), infer=IN_PARALLEL)
            log_prob = dist.Categorical(logits=logits).log_prob(CLASS)
            pyro.factor("classification", -2.0 * log_prob, has_rsample=False)

    bound = ELBO().evaluate(Pair(class_model, guide), X)
    log_q = (X[:, None] * parameter("lean")).log_softmax(1)
    log_p = parameter("class").log_softmax(0) + dist.Normal(parameter("centres"), 0.7).log_prob(X[:, None])
    by_hand = (log_q.exp() * (log_p - log_q)).sum() + 2.0 * log_q.gather(1, CLASS[:, None]).sum()
    torch.testing.assert_close(-bound.loss, by_hand)
    found, expected = (gradients_of(v, "lean", "class", "centres") for v in (-bound.loss, by_hand))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("objective", [ELBO(), ELBO(3, vectorize_particles=True), ELBO(2)])
@pytest.mark.parametrize("autoguide", [AutoNormal, AutoDelta])
def test_autoguides_train_as_in_pyros_objective(autoguide, objective, param_store):
    def positive(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(torch.tensor(2.0).double(), 1.0))
            pyro.sample("x", dist.Normal(parameter("slope", 1.2) * z, 0.8), obs=x)

    guide = autoguide(positive)
    pyros = Trace_ELBO(objective.num_particles, 1, vectorize_particles=objective.vectorize_particles)
    expected = loss_and_gradients(pyros, (positive, guide), X)
    torch.testing.assert_close(loss_and_gradients(objective, (positive, guide), X), expected)
    bound = objective.evaluate(Pair(positive, guide), X)
    torch.testing.assert_close(bound.terms["reconstruction"] - bound.terms["kl"], -bound.loss.detach())


@pytest.mark.parametrize("double", [False, True])
def test_an_auxiliary_draw_that_fixes_a_latent_is_its_density_in_importance_weights(double, param_store):
    """z = exp(u) with u normal is a log-normal z."""

    def positive(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(parameter("slope", 1.2) * z, 0.8), obs=x)

    def fixed(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", posterior(x), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u.exp(), log_density=-u))

    def direct(x):
        q = posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(q.loc, q.scale))

    found, expected = (
        loss_and_gradients(IWAE(4, double), (positive, guide), X) for guide in (fixed, direct)
    )
    torch.testing.assert_close(found, expected)
    with pytest.raises(InputError, match=r"'u' that is no latent of the model"):
        FreeBits(0.1).evaluate(Pair(positive, fixed), X)


def test_an_auxiliary_draw_without_gradient_gets_the_whole_bound_as_its_score(param_store):
    """log q of the auxiliary site is in the bound, and so in the factor of the score function."""

    def guide(x, infer):
        w = parameter("w", 0.4, 0.1, -0.5)
        with pyro.plate("data", len(x)):
            b = pyro.sample(
                "b", dist.Bernoulli(logits=parameter("lean", 0.8) + x), infer=infer | {"is_auxiliary": True}
            )
            pyro.sample("z", dist.Normal(w[0] * x + b, w[2].exp()))

    drawn, exact = (
        mean_gradient(model, functools.partial(guide, infer=infer)) for infer in ({}, IN_PARALLEL)
    )
    assert_same_mean(drawn, exact)
    assert exact.mean["lean"].abs() > 0.02


def test_a_point_keeps_its_gradient_under_the_score_function(param_store):
    def point(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(parameter("point", 0.3).expand(len(x))))

    found, expected = (loss_and_gradients(o, (model, point), X) for o in (ScoreFunctionELBO(), ELBO()))
    torch.testing.assert_close(found, expected)
    assert found[1]["point"].abs() > 0.1


def test_an_unmarked_site_of_the_guide_alone_is_refused(param_store):
    def guide(x, infer):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x))
            pyro.sample("u", dist.Normal(torch.zeros(()).double(), 1.0), infer=infer)

    for objective in (ELBO(), IWAE(2), ScoreFunctionELBO()):
        with pytest.raises(InputError, match=r"samples 'u', which the model does not have.*is_auxiliary"):
            objective.evaluate(Pair(model, functools.partial(guide, infer={})), X)
    remedy = functools.partial(guide, infer={"is_auxiliary": True})
    assert ELBO().evaluate(Pair(model, remedy), X).loss.isfinite()
