"""What a result says of its own errors: k-hat judges the guide; draws that repeat leave them unknown."""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyrovae.evaluation import kl_decomposition, marginal_likelihood
from pyrovae.evaluation.pareto import pareto_khat
from pyrovae.evaluation.statistics import importance_statistics, khat_limit, khat_line
from pyrovae.models import PPCA
from pyrovae.programs.log_weights import Scores
from pyrovae.programs.pair import Pair
from pyrovae.programs.repeats import all_equal, fingerprints
from pyrovae.programs.sites import latent_sites

REPEATS = "all draws of the discrete latents are the same"


def double(*values):
    return torch.tensor(values, dtype=torch.double)


# The guide is judged, not single data


@pytest.mark.parametrize(
    ("num_samples", "limit"),
    [(30, 0.323), (50, 0.411), (100, 0.5), (500, 0.629), (5000, 0.7), (10**6, 0.7)],
)
def test_the_limit_of_khat_is_that_of_the_paper(num_samples, limit):
    assert khat_limit(num_samples) == pytest.approx(limit, abs=5e-4)  # min(1 - 1 / log10(K), 0.7)


def off(ppca, scale, shift):
    """PPCA with its exact posterior, scaled and shifted by some of its standard deviations."""
    weight, bias, covariance = (part.detach() for part in ppca._posterior_parameters())
    root = torch.linalg.cholesky(covariance)

    def guide(x):
        loc = x @ weight.T + bias + shift * root.sum(1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=scale * root))

    return Pair(ppca.model, guide)


@pytest.mark.filterwarnings("ignore:k-hat is above")
@pytest.mark.parametrize(
    ("scale", "shift", "num_samples", "poor"),
    [
        (1 / 3, 0.0, 500, True),
        (1 / 3, 0.0, 50, True),
        (1.0, 1.5, 500, True),
        (1.2, 0.0, 500, False),
        (1.2, 0.0, 50, False),
    ],
)
def test_a_result_says_whether_its_error_bars_are_too_small(
    make_ppca, draw, scale, shift, num_samples, poor
):
    ppca = make_ppca(5, 10)
    x = draw(ppca, 60)
    result = marginal_likelihood(off(ppca, scale, shift), x, num_samples=num_samples, bounds=())
    covered = ((result.log_px - ppca.log_evidence(x)).abs() < 1.96 * result.std_error).double().mean()
    assert (covered < 0.8) == poor, "the case itself"
    assert result.is_poor_proposal == poor
    assert ("the guide is a poor proposal, so the errors are too small" in str(result)) == poor
    if poor:  # data without a warning of their own are covered no better
        calm = result.khat <= result.khat_limit
        missed = (result.log_px - ppca.log_evidence(x)).abs() > 1.96 * result.std_error
        assert not calm.any() or missed[calm].double().mean() > 0.3


def test_the_warning_speaks_of_the_guide_or_of_single_data(make_ppca, draw):
    ppca = make_ppca(5, 10)
    x = draw(ppca, 20)
    with pytest.warns(UserWarning, match=r"k-hat is above 0\.63.*errors of all data, and of their mean"):
        marginal_likelihood(off(ppca, 0.3, 0.0), x, num_samples=500)


def test_too_few_draws_for_khat_are_said_to_be(make_ppca, draw):
    ppca = make_ppca()
    x = draw(ppca, 2)
    with pytest.warns(UserWarning, match="k-hat needs at least 30 draws, and num_samples is 29"):
        result = marginal_likelihood(ppca, x, num_samples=29)
    assert "k-hat    : not known (K is below 30, too few draws to fit a tail)" in str(result)
    assert "not known" not in str(marginal_likelihood(ppca, x, num_samples=30))


# k-hat where there is no tail


def test_khat_of_weights_with_few_values_is_not_known():
    counts = ([2, 40, 8], [3, 40, 7], [1, 20, 29], [10, 15, 25])
    columns = [double(1.4, 1.0, 0.8).log().repeat_interleave(torch.tensor(count)) for count in counts]
    assert pareto_khat(torch.stack(columns, 1)).isnan().all()


def test_khat_is_infinite_where_a_few_draws_have_most_of_the_weight():
    log_weights = torch.zeros(50, 2).double()
    log_weights[:3, 0] = 20.0
    log_weights[:10, 1] = 20.0  # as many as a fifth: no rare event
    assert pareto_khat(log_weights).isinf().tolist() == [True, False]
    line = khat_line(double(math.inf, math.inf), 50)
    assert line.startswith("median above 100, 2 of 2 above 0.41")


def test_impossible_draws_do_not_hide_the_tail_of_the_others():
    log_weights = torch.randn(500, 1).double()
    log_weights[:400] = -math.inf
    assert pareto_khat(log_weights).isfinite().all()


@pytest.mark.filterwarnings("ignore:k-hat is above")
@pytest.mark.parametrize("num_samples", [50, 200])
def test_one_drawn_class_gives_no_number_of_309_digits(num_samples, tmp_path):
    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(double(0.4, 0.4, 0.2)))
            pyro.sample("x", dist.Normal(0.1 * y, 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(double(0.9, 0.06, 0.04)).expand((len(x),)))

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    x = double([0.2], [-1.0])
    for seed in range(10):
        result = marginal_likelihood(Pair(model, guide), x, num_samples=num_samples, seed=seed)
        assert len(max(str(result).split(), key=len)) < 20
        assert (result.khat.isnan() | result.khat.isinf()).all()
        result.to_json(tmp_path / "result.json")
        content = json.loads((tmp_path / "result.json").read_text(), parse_constant=refuse)
        assert content["summary"]["khat_median"] is None
        assert content["data"]["khat"] == [None, None]


def test_an_exact_guide_in_32_bit_has_weights_that_do_not_vary():
    x = torch.randn(100, 20) @ torch.randn(20, 20) * 3
    ppca = PPCA(20, 4)
    ppca.fit_closed_form(x)
    result = marginal_likelihood(ppca, x, num_samples=500)
    assert result.khat.isnan().all()
    assert "k-hat    : could not be fitted (the weights do not vary" in str(result)
    assert (result.std_error < 1e-4).all()
    assert (result.log_px - ppca.log_evidence(x)).abs().max() < 1e-3


# Draws that miss classes

CENTRES = double(0.0, 5.0)


def mixture(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(double(0.5, 0.5)))
        z = pyro.sample("z", dist.Normal(CENTRES[y], 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def guide_of(probabilities, stretch=1.0):
    """q(z | x, y) has the posterior's mean, and `stretch` times its standard deviation."""

    def guide(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(probabilities.expand(len(x), 2)))
            pyro.sample("z", dist.Normal((x[:, 0] + CENTRES[y]) / 2, stretch * 0.5**0.5))

    return guide


X = double([5.0], [5.5], [0.0])


def exact(x):
    return (dist.Normal(CENTRES, 2**0.5).log_prob(x) - math.log(2)).logsumexp(-1)


def test_all_draws_in_one_class_do_not_make_a_guide_exact(tmp_path):
    with pytest.warns(UserWarning, match=f"for 3 of 3 data {REPEATS}.*enumerate"):
        result = marginal_likelihood(Pair(mixture, guide_of(double(1.0, 0.0))), X, num_samples=200)
    assert (exact(X) - result.log_px)[:2].min() > 5  # nats
    assert result.std_error.isnan().all()
    assert result.datum_elbo_std_error.isnan().all()
    assert result.repeated.all()
    assert "+- unknown nats per datum" in str(result)
    assert f"for 3 of 3 data {REPEATS}" in str(result)
    result.to_json(tmp_path / "result.json")
    summary = json.loads((tmp_path / "result.json").read_text())["summary"]
    assert summary["mean_std_error"] is None
    assert summary["num_repeated"] == 3


def test_all_draws_in_one_class_are_said_to_be_also_where_weights_vary():
    pair = Pair(mixture, guide_of(double(1.0, 0.0), stretch=1.1))
    with pytest.warns(UserWarning, match=f"for 3 of 3 data {REPEATS}"):
        result = marginal_likelihood(pair, X, num_samples=200)
    assert (result.std_error < 0.1).all()
    assert result.repeated.all()


def test_draws_of_both_classes_have_their_error_and_no_warning():
    result = marginal_likelihood(Pair(mixture, guide_of(double(0.4, 0.6))), X, num_samples=2000)
    assert not result.repeated.any()
    assert ((result.log_px - exact(X)).abs() < 4.5 * result.std_error).all()
    assert REPEATS not in str(result)


def test_discrete_draws_with_equal_weights_leave_the_error_unknown():
    # The guide never draws the third value, and is right in proportion among the others.
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(double(0.25, 0.25, 0.5)))
            pyro.sample("x", dist.Normal((k == 2).double(), 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(double(0.5, 0.5, 0.0)).expand((len(x),)))

    result = marginal_likelihood(Pair(model, guide), double([1.0], [2.0]), num_samples=500)
    assert not result.repeated.any()
    assert result.std_error.isnan().all()
    assert "+- unknown" in str(result)


def test_equal_weights_of_continuous_draws_are_exact(make_ppca, draw):
    ppca = make_ppca(3, 7, spread=1.0)
    result = marginal_likelihood(ppca, draw(ppca, 3), num_samples=50)
    assert (result.std_error < 1e-7).all()
    assert not result.repeated.any()


def test_statistics_of_points_with_equal_weights_have_no_error():
    log_weights, points = torch.full((40, 2), -3.0).double(), torch.ones(40, 2).double()
    points[7, 1] = 2.0
    found = importance_statistics(Scores(log_weights, log_weights, points), [1])
    assert found["std_error"].isnan().all()
    assert found["repeated"].tolist() == [True, False]
    exact = importance_statistics(Scores(log_weights, log_weights, None), [1])
    assert (exact["std_error"] < 1e-7).all()


def test_fingerprints_tell_draws_apart_in_any_plate_and_event():
    probabilities = torch.full((3, 1, 2), 0.5).double()

    def guide(x):
        with pyro.plate("data", 4, dim=-1):
            pyro.sample("code", dist.OneHotCategorical(double(0.3, 0.3, 0.4)).expand((4,)))
            with pyro.plate("views", 3, dim=-2):
                pyro.sample("bits", dist.Bernoulli(probabilities).to_event(1))
            pyro.sample("count", dist.Poisson(double(2.0)).expand((4,)))
            pyro.sample("z", dist.Normal(double(0.0), 1.0).expand((4,)))

    def run():
        with pyro.plate("particles", 6, dim=-3):
            return poutine.trace(guide).get_trace(None)

    trace = poutine.util.prune_subsample_sites(run())
    names = latent_sites(trace)

    def of_draws():
        return fingerprints(trace, names, depth=2, data_dim=-1, data_plate="data")

    found = of_draws()
    assert found.shape == (6, 4)
    assert not all_equal(found).any()
    for name, event_dim in (("code", 1), ("bits", 1), ("count", 0)):
        site = trace.nodes[name]
        drawn = site["value"]
        site["value"] = drawn[:1].expand(drawn.shape)  # equal in all particles
        others = [other for other in ("code", "bits", "count") if other != name]
        kept = {other: trace.nodes[other]["value"] for other in others}
        for other in others:
            trace.nodes[other]["value"] = kept[other][:1].expand(kept[other].shape)
        assert all_equal(of_draws()).all()
        last = site["value"].clone()
        last[(5, *[-1] * (last.dim() - event_dim - 1))] += 1  # one draw of the last datum differs
        site["value"] = last
        assert all_equal(of_draws()).tolist() == [
            True,
            True,
            True,
            False,
        ]
        site["value"] = drawn
        for other in others:
            trace.nodes[other]["value"] = kept[other]


# The KL's parts


def test_the_kl_of_a_class_that_was_drawn_once_has_no_error_of_0():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(double(0.5, 0.5)))
            pyro.sample("x", dist.Normal(double(0.0), 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(double(0.999, 0.001).expand(len(x), 2)))

    result = kl_decomposition(Pair(model, guide), double([0.0], [1.0]), num_samples=5)
    assert math.isnan(result.std_error["average_kl"])
    assert "+- unknown" in str(result)
    many = kl_decomposition(Pair(model, guide), double([0.0], [1.0]), num_samples=20_000)
    truth = 0.999 * math.log(0.999 / 0.5) + 0.001 * math.log(0.001 / 0.5)
    assert 0 < many.std_error["average_kl"] < 0.01
    assert abs(many.average_kl - truth) < 4.5 * many.std_error["average_kl"]
