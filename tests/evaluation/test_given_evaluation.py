"""What is given beside the data in evaluation, against log p(x | c) and posteriors in closed form."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from given_programs import LinearGaussian, conditions, data

from pyrovae.diagrams import plate_diagram
from pyrovae.errors import InputError
from pyrovae.evaluation import (
    active_units,
    best_guide,
    class_posterior,
    class_probabilities,
    gradient_variance,
    inference_gaps,
    kl_decomposition,
    marginal_likelihood,
    prior_marginal_likelihood,
)
from pyrovae.objectives import ELBO
from pyrovae.programs import Pair

N = 120  # more data than are scored at once
X, C = data(N), conditions(N)


def too_wide(pair):
    """The pair with a guide of twice the posterior's scale."""

    def guide(x, c):
        with pyro.plate("data", len(x)):
            precision = 1 + pair.b**2 / 0.25
            mean = (pair.a * c + pair.b * (x - pair.d * c) / 0.25) / precision
            pyro.sample("z", dist.Normal(mean, 2 * precision**-0.5).to_event(1))

    return Pair(pair.model, guide)


def test_the_evidence_is_that_given_the_condition():
    pair = LinearGaussian().requires_grad_(False)
    expected = pair.log_px(X, C).double()
    exact = marginal_likelihood(pair, X, given={"c": C}, num_samples=40)
    torch.testing.assert_close(exact.log_px, expected, atol=1e-5, rtol=0)
    estimate = marginal_likelihood(too_wide(pair), X, given={"c": C}, num_samples=1000, bounds=())
    z_scores = (estimate.log_px - expected) / estimate.std_error
    assert z_scores.abs().max() < 4.5
    assert 0.7 < z_scores.std() < 1.3
    # The ELBO falls short by KL(N(m, 4 s^2) || N(m, s^2)) = (4 - 1)/2 - log 2.
    gap = (expected - estimate.datum_elbo).mean().item()
    assert gap == pytest.approx(1.5 - math.log(2), abs=4.5 * estimate.elbo_std_error)


@pytest.mark.parametrize("compile", ["on", "off"])
def test_a_table_passes_whole_whatever_its_length(compile, recorded):
    """Also a table with as many rows as are scored at once, 100, and as the rest, 20."""
    pair = LinearGaussian().requires_grad_(False)

    def changed(program):
        return lambda x, c, table, row: program(x, table[row] * c)

    with_table = Pair(changed(pair.model), changed(pair.guide))
    for length in (100, 20):
        given = {"c": C, "table": torch.arange(length).float()[:, None], "row": length - 1}
        found = marginal_likelihood(with_table, X, given=given, num_samples=30, compile=compile)
        expected = pair.log_px(X, (length - 1) * C).double()
        torch.testing.assert_close(found.log_px, expected, atol=1e-4, rtol=1e-5)


def test_draws_from_the_prior_given_the_condition():
    pair = LinearGaussian().requires_grad_(False)
    estimate = prior_marginal_likelihood(pair, X[:10], given={"c": C[:10]}, num_samples=20_000, bounds=())
    z_scores = (estimate.log_px - pair.log_px(X[:10], C[:10])) / estimate.std_error
    assert z_scores.abs().max() < 4.5


@pytest.mark.filterwarnings("ignore:k-hat is above")  # the best guide is exact up to the search's last step
def test_the_gaps_of_a_guide_that_is_too_wide():
    pair = LinearGaussian().requires_grad_(False)
    few, given = X[:5], {"c": C[:5]}
    found = inference_gaps(too_wide(pair), few, given=given, num_samples=100, steps=150, learning_rate=0.1)
    assert found.mean("approximation") == pytest.approx(0, abs=0.01)
    error = 4.5 * found.mean_std_error("amortisation")
    assert found.mean("amortisation") == pytest.approx(1.5 - math.log(2), abs=error + 0.01)
    best = best_guide(too_wide(pair), few, given=given, steps=150, learning_rate=0.1)
    result = marginal_likelihood(Pair(pair.model, best), few, given=given, num_samples=30)
    assert result.mean - result.elbo == pytest.approx(0, abs=0.01)


def test_active_units_vary_with_data_and_condition():
    """The posterior's mean is linear in x and c, so its variance over the data is known."""
    pair = LinearGaussian().requires_grad_(False)
    precision = 1 + pair.b**2 / 0.25
    mean = (pair.a * C + pair.b * (X - pair.d * C) / 0.25) / precision
    found = active_units(pair, X, given={"c": C})
    torch.testing.assert_close(found.variances["z"], mean.var(0).double(), atol=1e-4, rtol=0)


def test_the_kl_of_a_prior_that_depends_on_the_condition_has_no_single_prior():
    pair = LinearGaussian().requires_grad_(False)
    with pytest.raises(InputError, match=r"prior of 'z' differs between data.*each condition"):
        kl_decomposition(pair, X[:20], given={"c": C[:20]})
    for condition in (0.0, 1.0):  # the remedy: the data of one condition at a time
        c = torch.full((20, 1), condition)
        found = kl_decomposition(pair, X[:20], given={"c": c}, num_samples=5)
        alone = Pair(*(_with_constant(program, condition) for program in (pair.model, pair.guide)))
        expected = kl_decomposition(alone, X[:20], num_samples=5)
        assert found.marginal_kl == pytest.approx(expected.marginal_kl, abs=1e-4)
        assert found.total_correlation == pytest.approx(expected.total_correlation, abs=1e-4)


def _with_constant(program, condition):
    return lambda x: program(x, torch.full_like(x, condition))


def test_the_gradient_given_the_condition():
    """With the exact posterior the ELBO is log p(x | c) for each draw, so its gradient has no noise."""
    pair = LinearGaussian()
    found = gradient_variance(ELBO(), pair, X, given={"c": C}, repeats=5)
    scale = pair.b**2 + 0.25
    mean = (pair.a * pair.b + pair.d) * C
    loss = -dist.Normal(mean, scale.sqrt()).log_prob(X).mean()
    for name, value in zip(
        ("a", "b", "d"), torch.autograd.grad(loss, [pair.a, pair.b, pair.d]), strict=True
    ):
        assert found.mean[name].item() == pytest.approx(value.item(), abs=1e-3)


class Classed(torch.nn.Module):
    """y ~ Cat(softmax(c, 0)), x ~ N(2 y + c, 1): p(y | x, c) is known, and the guide's q(y | x, c) is it.

    A latent that nothing depends on makes it a model with draws.
    """

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def logits(self, c):
        return torch.cat([c, torch.zeros_like(c)], -1)

    def model(self, x, y=None, *, c):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=self.logits(c)), obs=y)
            z = pyro.sample("z", dist.Normal(c, self.one).to_event(1))
            pyro.sample("x", dist.Normal(2.0 * y[..., None] + c + 0 * z, self.one).to_event(1), obs=x)

    def posterior(self, x, c):
        likelihood = dist.Normal(torch.tensor([0.0, 2.0]) + c, self.one).log_prob(x)
        return (self.logits(c) + likelihood).softmax(-1)

    def guide(self, x, y=None, *, c):
        with pyro.plate("data", len(x)):
            if y is None:
                pyro.sample("y", dist.Categorical(self.posterior(x, c)), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(c, self.one).to_event(1))


def test_classes_given_the_condition():
    pair = Classed().requires_grad_(False)
    expected = pair.posterior(X, C)
    given = {"c": C}
    torch.testing.assert_close(class_probabilities(pair, X, given=given, batch_size=50), expected)
    found = class_posterior(pair, X, 2, given=given, num_samples=3)
    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=0)
    result = marginal_likelihood(pair, X, given=given, num_samples=30)
    log_px = torch.log_softmax(pair.logits(C), -1)
    log_px = (log_px + dist.Normal(torch.tensor([0.0, 2.0]) + C, 1.0).log_prob(X)).logsumexp(-1)
    torch.testing.assert_close(result.log_px.float(), log_px, atol=1e-5, rtol=0)


class Completion(torch.nn.Module):
    """Images of which c has a part, and -1 elsewhere, as in Pyro's tutorial on conditional VAEs.

    The observed value is computed from both arguments, x[c == -1]. If `cut`, x holds these pixels alone.
    """

    def __init__(self, cut):
        super().__init__()
        self.cut = cut
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.prior, self.posterior = torch.nn.Linear(6, 4), torch.nn.Linear(6, 4)
            self.decoder = torch.nn.Linear(2, 6)

    def sample(self, h):
        loc, scale = h.chunk(2, -1)
        return pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()).to_event(1))

    def model(self, x, c):
        with pyro.plate("data", len(x)):
            logits = self.decoder(self.sample(self.prior(c)))
            unknown = c == -1
            logits = logits[..., 2:] if self.cut else logits[..., unknown[0]]
            pixels = x if self.cut else x[unknown].view(len(x), -1)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=pixels)

    def guide(self, x, c):
        whole = torch.cat([c[:, :2], x], -1) if self.cut else torch.where(c == -1, x, c)
        with pyro.plate("data", len(x)):
            self.sample(self.posterior(whole))


@pytest.mark.filterwarnings("ignore:k-hat")
def test_a_value_computed_from_data_and_condition_is_scored_as_it_is():
    x = torch.rand(30, 6, generator=torch.Generator().manual_seed(4)).round()
    c = torch.cat([x[:, :2], torch.full((30, 4), -1.0)], -1)
    found = marginal_likelihood(Completion(False), x, given={"c": c}, num_samples=50)
    expected = marginal_likelihood(Completion(True), x[:, 2:], given={"c": c}, num_samples=50)
    torch.testing.assert_close(found.log_px, expected.log_px)
    diagram = plate_diagram(Completion(False), x, given={"c": c})
    assert ("c", "z") in diagram.generative_edges


def test_a_total_of_the_data_may_be_given():
    """Counts with a given total n: x | n, z ~ Poisson(n softmax(z)) for a library size n."""

    def model(x, total):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            rate = total * torch.cat([z, -z], -1).softmax(-1)
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)

    def guide(x, total):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    x = torch.tensor([[3.0, 1.0], [0.0, 5.0], [2.0, 2.0]])
    total = x.sum(-1, keepdim=True)
    grid = torch.linspace(-8, 8, 4001)[:, None]  # quadrature over z
    rate = total * torch.cat([grid, -grid], -1).softmax(-1)[:, None]
    log_joint = dist.Poisson(rate).log_prob(x).sum(-1) + dist.Normal(0.0, 1.0).log_prob(grid)
    expected = log_joint.logsumexp(0) + math.log(16 / 4000)
    found = marginal_likelihood(Pair(model, guide), x, given={"total": total}, num_samples=4000, bounds=())
    assert ((found.log_px - expected).abs() < 4.5 * found.std_error).all()


EVALUATIONS = {
    "marginal_likelihood": marginal_likelihood,
    "prior_marginal_likelihood": prior_marginal_likelihood,
    "inference_gaps": inference_gaps,
    "best_guide": best_guide,
    "active_units": active_units,
    "kl_decomposition": kl_decomposition,
    "class_probabilities": class_probabilities,
    "class_posterior": lambda pair, x, **given: class_posterior(pair, x, 2, **given),
    "gradient_variance": lambda pair, x, **given: gradient_variance(ELBO(), pair, x, **given),
}


@pytest.mark.parametrize("evaluate", EVALUATIONS.values(), ids=EVALUATIONS)
def test_unknown_names_are_refused_everywhere(evaluate):
    with pytest.raises(InputError, match="given has 'k', which the model does not take"):
        evaluate(Classed(), X, given={"c": C, "k": C})
    with pytest.raises(InputError, match="given is a Tensor; expected a mapping"):
        evaluate(Classed(), X, given=C)
    with pytest.raises(InputError, match=r"given\['c'\] is a ndarray of 120 values"):
        evaluate(Classed(), X, given={"c": C.numpy()})


def test_a_diagram_is_drawn_with_what_is_given():
    nodes = plate_diagram(LinearGaussian(), X[:6], given={"c": C[:6]}).nodes
    assert {*nodes} == {"c", "z", "x"}
    y = torch.tensor([0, 1, -1, -1, 0, 1])
    diagram = plate_diagram(Classed(), X[:6], y, given={"c": C[:6]})
    assert {name: node.status for name, node in diagram.nodes.items()} == {
        "c": "observed", "y": "partly", "z": "latent", "x": "observed"
    }  # fmt: skip
    assert ("c", "z") in diagram.generative_edges
