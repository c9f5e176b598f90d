"""The ELBO beside the evidence: with classes q(y | x) is in it; the weights' own L_1 is another number."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import kl_divergence

from pyrovae.evaluation import inference_gaps, marginal_likelihood, prior_marginal_likelihood
from pyrovae.programs.log_weights import elbo_terms
from pyrovae.programs.pair import Pair

ENUMERATED = {"enumerate": "parallel"}


def double(*values):
    return torch.tensor(values, dtype=torch.double)


X = double([0.3], [-1.2], [2.0], [0.9])


# A mixture with linear parts: y ~ pi, z ~ N(m_y, s_y^2), x ~ N(2 z, 0.6^2)

PRIOR, CENTRES, SCALES, SLOPE, NOISE = (
    double(0.5, 0.2, 0.3),
    double(-1.0, 0.0, 1.5),
    double(0.5, 1.0, 0.7),
    2.0,
    0.6,
)


def class_probabilities(x):
    """q(y | x), which is not the posterior."""
    return (x * double(-0.5, 0.1, 0.7) + double(0.0, 0.5, -0.2)).softmax(-1)


def z_given(x, y):
    """q(z | x, y), which is not the posterior."""
    return dist.Normal(0.4 * x.squeeze(-1) + 0.2 * CENTRES[y], 0.4 + 0.05 * y)


def mixture(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(PRIOR))
        z = pyro.sample("z", dist.Normal(CENTRES[y], SCALES[y]))
        pyro.sample("x", dist.Normal(SLOPE * z, NOISE), obs=x.squeeze(-1))


def guide_of_mixture(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(class_probabilities(x)), infer=ENUMERATED)
        pyro.sample("z", z_given(x, y))


def exact_elbo_of_mixture(x):
    """sum_y q(y) [log p(y) - log q(y) - KL(q(z | y) || p(z | y)) + E log p(x | z)], in closed form."""
    probabilities = class_probabilities(x)
    terms = []
    for y in range(3):
        q = z_given(x, torch.tensor(y))
        kl = kl_divergence(q, dist.Normal(CENTRES[y], SCALES[y]).expand(q.batch_shape))
        squares = (x.squeeze(-1) - SLOPE * q.mean).square() + SLOPE**2 * q.variance
        reconstruction = -0.5 * squares / NOISE**2 - math.log(NOISE * math.sqrt(2 * math.pi))
        terms.append(PRIOR[y].log() - kl + reconstruction)
    return (probabilities * (torch.stack(terms, -1) - probabilities.log())).sum(-1)


def exact_log_px_of_mixture(x):
    of_class = dist.Normal(SLOPE * CENTRES, ((SLOPE * SCALES).square() + NOISE**2).sqrt())
    return (of_class.log_prob(x) + PRIOR.log()).logsumexp(-1)


def test_the_elbo_of_a_mixture_has_the_classes_probabilities_in_it():
    result = marginal_likelihood(Pair(mixture, guide_of_mixture), X, num_samples=20_000)
    exact, log_px = exact_elbo_of_mixture(X), exact_log_px_of_mixture(X)
    error = result.datum_elbo_std_error
    assert ((result.datum_elbo - exact).abs() < 4.5 * error).all()
    assert (error < 0.02).all()
    assert abs(result.elbo - exact.mean().item()) < 4.5 * result.elbo_std_error
    assert ((result.log_px - log_px).abs() < 4.5 * result.std_error).all()
    # The weights' own bound with one draw is another number, between the two.
    assert (result.bounds[1] > exact + 10 * error).all()
    assert (result.bounds[1] < log_px).all()
    assert result.enumerated
    assert result.summary()["elbo"] == result.elbo
    assert f"ELBO     = {result.elbo:.3f} +- " in str(result)
    assert f"(classes summed out) L_1 = {result.bounds[1].mean():.3f}, L_10 = " in str(result)


def test_the_gaps_have_the_same_elbo():
    pair = Pair(mixture, guide_of_mixture)
    result = inference_gaps(pair, X, num_samples=5000, steps=1, learning_rate=1e-9)
    exact = exact_elbo_of_mixture(X)
    assert ((result.elbo - exact).abs() < 4.5 * result.std_error["elbo"]).all()
    assert (exact_log_px_of_mixture(X) - exact > 0.05).all()


def test_drawn_classes_have_the_same_elbo():
    pair = Pair(mixture, guide_of_mixture)
    result = marginal_likelihood(pair, X, num_samples=20_000, enumerate=False)
    assert ((result.datum_elbo - exact_elbo_of_mixture(X)).abs() < 4.5 * result.datum_elbo_std_error).all()
    assert torch.equal(result.bounds[1], result.datum_elbo)
    assert not result.enumerated
    assert "L_1 =" not in str(result)


def test_the_elbos_error_is_its_spread_over_seeds():
    pair = Pair(mixture, guide_of_mixture)
    # Each datum has draws of its own, so copies of the data stand for 60 estimates.
    of_all = marginal_likelihood(pair, X.repeat(60, 1), num_samples=100, bounds=())
    elbos, errors = of_all.datum_elbo.view(60, -1), of_all.datum_elbo_std_error.view(60, -1)
    results = [
        replace(of_all, datum_elbo=elbo, datum_elbo_std_error=error)
        for elbo, error in zip(elbos, errors, strict=True)
    ]
    spread = double(*[result.elbo for result in results]).std().item()
    reported = double(*[result.elbo_std_error for result in results]).mean().item()
    assert 0.7 < spread / reported < 1.35  # its own error is about 1 / sqrt(2 * 59) = 0.09
    mean, exact = sum(result.elbo for result in results) / 60, exact_elbo_of_mixture(X).mean().item()
    assert abs(mean - exact) < 4.5 * reported / 60**0.5


# Classes alone: everything by hand


def one_class(logits):
    """A model of a class and two numbers; the guide's class has these logits."""

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(PRIOR))
            pyro.sample("x", dist.Normal(CENTRES[y], 1.0), obs=x.squeeze(-1))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=logits.expand(len(x), 3)), infer=ENUMERATED)

    return Pair(model, guide)


def log_joint(x):
    """log p(x, y), `(N, 3)`."""
    return dist.Normal(CENTRES, 1.0).log_prob(x) + PRIOR.log()


def test_a_class_that_is_enumerated_in_full_leaves_no_error():
    log_q = double(0.1, 0.3, 0.6).log()
    result = marginal_likelihood(one_class(log_q), X, num_samples=40)
    torch.testing.assert_close(result.datum_elbo, (log_q.exp() * (log_joint(X) - log_q)).sum(-1))
    torch.testing.assert_close(result.log_px, log_joint(X).logsumexp(-1))
    torch.testing.assert_close(result.bounds[1], result.log_px)
    for error in (result.std_error, result.datum_elbo_std_error):
        torch.testing.assert_close(error, torch.zeros(4).double(), atol=1e-7, rtol=0)
    assert not result.repeated.any()


def test_a_class_without_probability_has_no_part_in_the_elbo():
    result = marginal_likelihood(one_class(double(0.0, -math.inf, 0.0)), X, num_samples=40)
    log_p = log_joint(X)[:, [0, 2]]
    torch.testing.assert_close(result.datum_elbo, log_p.mean(-1) + math.log(2))


def test_two_enumerated_sites_are_summed_over_all_of_their_values():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(double(0.3)))
            b = pyro.sample("b", dist.Bernoulli(0.2 + 0.5 * a))
            pyro.sample("x", dist.Normal(a - 2 * b, 1.0), obs=x.squeeze(-1))

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(logits=x.squeeze(-1)), infer=ENUMERATED)
            pyro.sample("b", dist.Bernoulli(0.4 + 0.2 * a), infer=ENUMERATED)

    log_p, log_q = [], []
    for a in (0.0, 1.0):
        for b in (0.0, 1.0):
            log_p.append(
                dist.Bernoulli(double(0.3)).log_prob(double(a))
                + dist.Bernoulli(double(0.2 + 0.5 * a)).log_prob(double(b))
                + dist.Normal(a - 2 * b, 1.0).log_prob(X[:, 0])
            )
            log_q.append(
                dist.Bernoulli(logits=X[:, 0]).log_prob(double(a))
                + dist.Bernoulli(double(0.4 + 0.2 * a)).log_prob(double(b))
            )
    log_p, log_q = torch.stack(log_p), torch.stack(log_q)
    result = marginal_likelihood(Pair(model, guide), X, num_samples=3)
    torch.testing.assert_close(result.datum_elbo, (log_q.exp() * (log_p - log_q)).sum(0))
    torch.testing.assert_close(result.log_px, log_p.logsumexp(0))


def test_the_gradient_of_the_elbo_is_finite_where_a_class_has_no_probability():
    logits = double(0.0, 0.0, -2000.0).requires_grad_()
    log_weights = double(-1.0, -2.0, -3.0).reshape(3, 1, 1)
    (gradient,) = torch.autograd.grad(
        elbo_terms(log_weights, logits.softmax(0).reshape(3, 1, 1)).sum(), logits
    )
    # d/dlogit_y = q(y) (f_y - sum q f), f_y = log w_y - log q(y)
    torch.testing.assert_close(gradient, double(0.25, -0.25, 0.0))


# The prior as guide


def test_with_the_prior_as_guide_the_elbo_is_the_priors(make_ppca, draw):
    ppca = make_ppca(2, 5, noise=1.5)
    x = draw(ppca, 4)
    result = prior_marginal_likelihood(ppca, x, num_samples=20_000)
    # E over the prior of log N(x; W z + mu, sigma^2), in closed form.
    squares = (x - ppca.mean).square().sum(-1) + ppca.weight.square().sum()
    constant = 5 * (math.log(2 * math.pi) + ppca.variance.log())
    exact = (-0.5 * (squares / ppca.variance + constant)).detach()
    assert ((result.datum_elbo - exact).abs() < 4.5 * result.datum_elbo_std_error).all()
