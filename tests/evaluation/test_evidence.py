"""The marginal likelihood of any pair, held against evidences that are known exactly."""

import json
import math
import subprocess
import sys
import warnings
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyrovae
from pyrovae.errors import InputError
from pyrovae.evaluation import (
    MarginalLikelihood,
    marginal_likelihood,
    prior_marginal_likelihood,
)
from pyrovae.models import Autoencoder
from pyrovae.networks import MLP
from pyrovae.programs.pair import Pair


def score(pair, x, num_samples=200, **settings):
    return marginal_likelihood(pair, x, num_samples=num_samples, **settings)


def assert_within_errors(result, exact, errors=4):
    assert ((result.log_px - exact).abs() < errors * result.std_error).all()
    assert abs(result.mean - exact.mean().item()) < errors * result.mean_std_error


# The estimate and its error


@pytest.mark.parametrize("latent_dim", [2, 10, 40])
def test_the_estimate_is_within_its_error_of_the_exact_evidence(make_ppca, draw, latent_dim):
    ppca = make_ppca(latent_dim, dimensions=60)
    x = draw(ppca, 12)
    result = score(ppca, x, num_samples=5000)
    assert_within_errors(result, ppca.log_evidence(x))
    # Tight enough to mean something: the ELBO is far outside of it.
    assert (result.std_error < 0.03).all()
    assert (ppca.log_evidence(x) - result.bounds[1] > 2 * result.std_error).float().mean() > 0.5
    assert (result.khat < 0.7).all()


def test_the_reported_errors_cover_the_truth_as_often_as_they_promise(make_ppca, draw):
    ppca = make_ppca(4, dimensions=8, spread=1.4)
    x = draw(ppca, 4)
    exact = ppca.log_evidence(x)
    # Each datum has draws of its own, so copies of the data stand for 200 estimates.
    all_results = score(ppca, x.repeat(200, 1), num_samples=400, bounds=())
    data_covered, mean_covered = [], []
    for rows in torch.arange(800).view(200, 4):
        result = replace(
            all_results, log_px=all_results.log_px[rows], std_error=all_results.std_error[rows]
        )
        data_covered.append((result.log_px - exact).abs() < 1.96 * result.std_error)
        mean_covered.append(abs(result.mean - exact.mean().item()) < 1.96 * result.mean_std_error)
    coverage = torch.stack(data_covered).double().mean(0)
    assert (coverage > 0.90).all()
    assert (coverage < 0.99).all()
    assert 0.90 < sum(mean_covered) / 200 < 0.99


def test_with_the_exact_guide_the_estimate_is_exact_and_has_no_error(make_ppca, draw):
    ppca = make_ppca(3, 7, spread=1.0)
    x = draw(ppca, 5)
    result = score(ppca, x, num_samples=50, bounds=(10,))
    for estimate in (result.log_px, *result.bounds.values()):
        torch.testing.assert_close(estimate, ppca.log_evidence(x), atol=1e-9, rtol=0)
    assert (result.std_error < 1e-7).all()  # the root of 64-bit rounding
    torch.testing.assert_close(result.ess, torch.full((5,), 50.0).double())
    assert result.khat.isnan().all()
    assert result.num_unreliable == 0


# Bounds and draws


def test_bounds_rise_from_the_mean_log_weight_to_the_estimate(make_ppca, draw):
    ppca = make_ppca(3, 7, spread=3.0)
    x = draw(ppca, 30)
    result = score(ppca, x, num_samples=1000, bounds=(2, 7, 100))
    assert list(result.bounds) == [1, 2, 7, 100, 1000]
    means = [bound.mean().item() for bound in result.bounds.values()]
    assert means == sorted(means)
    assert means[1] - means[0] > 0.1
    assert means[-1] <= result.mean + 1e-12
    assert torch.equal(result.bounds[1000], result.log_px)
    assert result.elbo == means[0]


def test_the_first_bound_is_the_elbo_known_in_closed_form(make_ppca, draw):
    ppca = make_ppca(3, 7, spread=2.0)
    x = draw(ppca, 6)
    elbo = ppca.log_evidence(x) - torch.distributions.kl_divergence(
        ppca.posterior(x), ppca.exact_posterior(x)
    )
    # The error of a mean log weight is that of its batches.
    batches = torch.stack([score(ppca, x, 500, seed=seed).bounds[1] for seed in range(8)])
    assert ((batches.mean(0) - elbo).abs() < 5 * batches.std(0) / 8**0.5).all()


@pytest.mark.parametrize("num_samples", [1, 2, 999, 2003])
def test_exactly_as_many_draws_are_made_as_asked(make_ppca, draw, num_samples):
    ppca = make_ppca()
    x = draw(ppca, 7)
    drawn = []

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", ppca.posterior(x))
        drawn.append(z[..., 0].numel())

    def draws(num_samples):
        drawn.clear()
        marginal_likelihood(Pair(ppca.model, guide), x, num_samples=num_samples)
        return sum(drawn)

    by_checks = draws(1) - len(x)
    assert draws(num_samples) - by_checks == num_samples * len(x)


def test_one_draw_gives_the_elbo_and_no_error(make_ppca, draw):
    ppca = make_ppca()
    result = score(ppca, draw(ppca, 3), num_samples=1)
    assert list(result.bounds) == [1]
    assert torch.equal(result.bounds[1], result.log_px)
    assert result.std_error.isnan().all()
    assert torch.equal(result.ess, torch.ones(3).double())
    assert math.isnan(result.mean_std_error)
    assert json.loads(json.dumps(result.summary()))["num_samples"] == 1


def test_the_same_seed_gives_the_same_bits_and_leaves_the_callers_stream_alone(make_ppca, draw):
    ppca = make_ppca()
    x = draw(ppca, 4)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = score(ppca, x, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = score(ppca, x, seed=3), score(ppca, x, seed=4)
    assert torch.equal(one.log_px, again.log_px)
    assert not torch.equal(one.log_px, other.log_px)


def test_a_datum_scores_the_same_in_whatever_company(make_ppca, draw):
    ppca = make_ppca()
    x = draw(ppca, 130)  # more than pass through at once
    together = score(ppca, x, num_samples=500)
    chosen = [0, 57, 99, 100, 129]
    for number in chosen:
        alone = score(ppca, x[number : number + 1], num_samples=500, seed=1)
        error = math.hypot(alone.std_error.item(), together.std_error[number].item())
        assert abs(alone.log_px.item() - together.log_px[number].item()) < 4 * error
    assert_within_errors(together, ppca.log_evidence(x), errors=5)


def test_modules_are_in_evaluation_mode_while_scored_and_put_back(make_ppca, draw):
    ppca = make_ppca()
    ppca.likelihood.eval()
    modes = []

    def guide(x):
        modes.append(ppca.training)
        ppca.guide(x)

    score_of = marginal_likelihood(Pair(ppca.model, guide), draw(ppca, 2), num_samples=5)
    assert set(modes) == {False}
    assert ppca.training
    assert not ppca.likelihood.training
    assert not score_of.log_px.requires_grad


# Scales and masks


def test_a_scale_has_no_place_in_the_weights(make_ppca, draw):
    ppca = make_ppca()
    x = draw(ppca, 6)
    plain = score(ppca, x)
    scaled = marginal_likelihood(
        Pair(poutine.scale(ppca.model, 7.0), poutine.scale(ppca.guide, 0.1)), x, num_samples=200
    )
    assert torch.equal(scaled.log_px, plain.log_px)
    assert torch.equal(scaled.bounds[1], plain.bounds[1])


def test_a_plate_that_scales_the_minibatch_to_the_data_set_does_not_matter(make_ppca, draw):
    ppca = make_ppca()
    x = draw(ppca, 150)

    def model(x):
        with pyro.plate("data", 60_000, subsample_size=len(x)):
            pyro.sample("x", ppca.likelihood(pyro.sample("z", ppca.prior())), obs=x)

    def guide(x):
        with pyro.plate("data", 60_000, subsample_size=len(x)):
            pyro.sample("z", ppca.posterior(x))

    result = marginal_likelihood(Pair(model, guide), x, num_samples=500)
    assert_within_errors(result, ppca.log_evidence(x), errors=5)


def test_masked_pixels_are_integrated_out(make_ppca, draw):
    ppca = make_ppca(2, 6, spread=4.0)  # wide enough for fewer pixels than the guide has seen
    x = draw(ppca, 5)
    seen = torch.tensor([True, False, True, True, False, True])

    def model(x):
        with pyro.plate("data", len(x)):
            mean = ppca.likelihood.network(pyro.sample("z", ppca.prior()))
            pixels = pyro.plate("pixels", 6, dim=-2)
            with pixels, poutine.mask(mask=seen[:, None]):
                # (*particles, data, pixels) -> (*particles, pixels, data)
                mean = mean.squeeze(-3) if mean.dim() > 3 else mean
                pyro.sample("x", dist.Normal(mean.mT, ppca.variance.sqrt()), obs=x.T)

    observed = torch.distributions.MultivariateNormal(
        ppca.mean[seen], (ppca.weight @ ppca.weight.T + ppca.variance * torch.eye(6))[seen][:, seen]
    )
    result = marginal_likelihood(Pair(model, ppca.guide), x, num_samples=20_000)
    assert_within_errors(result, observed.log_prob(x[:, seen]).detach())


# Anyone's programs

TRAPS, SPREAD, NOISE = 3, 0.8, 0.5


def hares(counts):
    """One latent for each datum, and one for each trap of each datum; nothing is shared."""
    with pyro.plate("years", len(counts), dim=-1):
        hare = pyro.sample("hare", dist.Normal(0.0, 1.0))
        with pyro.plate("traps", TRAPS, dim=-2):
            track = pyro.sample("track", dist.Normal(hare, SPREAD))
            pyro.sample("counts", dist.Normal(track, NOISE), obs=counts.T)


def lynxes(counts):
    with pyro.plate("years", len(counts), dim=-1):
        hare = pyro.sample("hare", dist.Normal(0.7 * counts.mean(1), 0.6))
        with pyro.plate("traps", TRAPS, dim=-2):
            pyro.sample("track", dist.Normal(0.6 * counts.T + 0.3 * hare, 0.5))


def test_plain_functions_with_an_inner_plate_and_unheard_of_sites_are_scored_right():
    covariance = (SPREAD**2 + NOISE**2) * torch.eye(TRAPS).double() + 1
    exact = torch.distributions.MultivariateNormal(torch.zeros(TRAPS).double(), covariance)
    counts = exact.sample((9,))
    result = marginal_likelihood(Pair(hares, lynxes), counts, num_samples=20_000)
    assert_within_errors(result, exact.log_prob(counts))
    assert (result.std_error < 0.05).all()


def test_a_guide_without_a_latent_of_the_model_is_refused():
    def guide(counts):
        with pyro.plate("years", len(counts)):
            pyro.sample("hare", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match=r"no site for the model's latent 'track' \(.*'hare'\)"):
        marginal_likelihood(Pair(hares, guide), torch.randn(4, TRAPS))


def test_a_guide_with_a_latent_of_its_own_is_refused():
    def guide(counts):
        lynxes(counts)
        with pyro.plate("more years", len(counts)):
            pyro.sample("fox", dist.Normal(0.0, 1.0))

    with pytest.raises(InputError, match="the guide samples 'fox', which the model does not have"):
        marginal_likelihood(Pair(hares, guide), torch.randn(4, TRAPS))


@pytest.mark.parametrize("num_data", [1, 5])
def test_a_latent_that_the_data_share_is_refused(make_ppca, draw, num_data):
    ppca = make_ppca()

    def with_global(program):
        def run(x):
            pyro.sample("temperature", dist.Normal(0.0, 1.0))
            program(x)

        return run

    with pytest.raises(InputError, match="'temperature' is not under a plate of"):
        marginal_likelihood(Pair(with_global(ppca.model), with_global(ppca.guide)), draw(ppca, num_data))


def test_a_model_without_latents_has_no_marginal_likelihood(make_vae, binary_images):
    autoencoder = Autoencoder(MLP((1, 4, 4), 2, hidden=()), make_vae().likelihood)
    with pytest.raises(InputError, match="no latent site, so there is nothing to integrate out"):
        score(autoencoder, binary_images)


@pytest.mark.parametrize(
    ("spoil", "settings", "message"),
    [
        (lambda x: x, {"num_samples": 0}, "num_samples is 0"),
        (lambda x: x, {"bounds": (0,)}, "bounds is 0"),
        (lambda x: x.where(torch.arange(24).view(-1, 1, 1, 1) != 5, torch.nan), {}, "the first is datum 5"),
        (lambda x: x[:0], {}, "expected at least one datum"),
        (lambda x: x[..., :3], {}, r"expects data of shape \(\*, 1, 4, 4\), .*1, 4, 3\)"),
        (lambda x: x / 3, {}, "outside the support of the Bernoulli likelihood at site 'x'"),
        (lambda x: x.long(), {}, "expected floating point"),
        (lambda x: x.tolist(), {}, "the data are a list, not a tensor"),
    ],
    ids=["K = 0", "bound 0", "NaN", "empty", "shape", "support", "integers", "list"],
)
def test_what_cannot_be_scored_is_refused(make_vae, binary_images, spoil, settings, message):
    with pytest.raises(InputError, match=message):
        score(make_vae(), spoil(binary_images), **settings)


def test_data_that_do_not_fit_are_refused_wherever_they_stand(make_vae, binary_images):
    x = binary_images.repeat(6, 1, 1, 1)
    x[-1] = 0.5
    with pytest.raises(InputError, match="1 of 44 data lie outside the support"):
        score(make_vae(), x, num_samples=2)


@pytest.mark.parametrize("num_data", [1, 2, 5])
def test_a_plate_of_something_else_is_not_taken_for_the_datas(num_data):
    def pixels(x):
        with pyro.plate("rows", len(x), dim=-2), pyro.plate("pixels", 2, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x), dim=-2), pyro.plate("pixels", 2, dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = torch.randn(num_data, 2)
    result = marginal_likelihood(Pair(pixels, guide), x, num_samples=10)
    exact = dist.Normal(0.0, 2**0.5).log_prob(x).sum(-1)
    assert torch.allclose(result.log_px, exact.double(), atol=1e-5)


# Draws from the prior


@pytest.mark.parametrize("latent_dim", [1, 2])
def test_the_prior_serves_in_few_dimensions(make_ppca, draw, latent_dim):
    ppca = make_ppca(latent_dim, dimensions=3, noise=1.0)
    x = draw(ppca, 6)
    result = prior_marginal_likelihood(ppca, x, num_samples=20_000)
    assert_within_errors(result, ppca.log_evidence(x))


def test_the_prior_fails_in_many_dimensions_and_the_diagnostic_says_so(make_ppca, draw):
    ppca = make_ppca(40, dimensions=60)
    x = draw(ppca, 6)
    expected = (
        r"k-hat is above 0\.70, its limit for K = 5000, for 6 of 6 data: the guide is a poor proposal"
    )
    with pytest.warns(UserWarning, match=expected) as caught:
        result = prior_marginal_likelihood(ppca, x, num_samples=5000)
    assert caught[0].filename == __file__
    assert result.num_unreliable == 6
    assert (result.log_px < ppca.log_evidence(x) - 20).all()


def test_the_warning_counts_the_data_that_are_affected(make_ppca, draw):
    ppca = make_ppca(2, 5)
    x = draw(ppca, 6)
    first_two = x[:2, 0]

    def guide(x):  # far too narrow for the first two data, right for the rest
        with pyro.plate("data", len(x)):
            exact = ppca.exact_posterior(x)
            narrow = torch.where(torch.isin(x[:, 0], first_two)[:, None, None], 0.1, 1.1)
            pyro.sample("z", dist.MultivariateNormal(exact.mean, scale_tril=narrow * exact.scale_tril))

    with pytest.warns(UserWarning, match="for 2 of 6 data"):
        result = marginal_likelihood(Pair(ppca.model, guide), x, num_samples=5000)
    assert (result.khat > 0.7).tolist() == [True, True, False, False, False, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score(ppca, x)


# Parameters that Pyro keeps


def test_what_pyro_param_keeps_is_trained_and_scored(make_ppca, draw, param_store):
    x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).double() + 3

    def model(x):
        centre = pyro.param("centre", torch.zeros(1).double())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(centre, 0.1).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        scale = pyro.param("scale", torch.ones(1).double(), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(3.0, scale.expand(len(x), 1)).to_event(1))

    def adam(parameters):
        return torch.optim.Adam(parameters, lr=0.05)

    pyrovae.fit(Pair(model, guide), x, epochs=40, batch_size=50, optimizer=adam, progress=False)
    assert sorted(param_store.keys()) == ["centre", "scale"]
    assert pyro.param("centre").item() == pytest.approx(3, abs=0.3)
    assert pyro.param("scale").item() < 0.5

    def exact():
        return dist.Normal(pyro.param("centre"), 1.01**0.5).log_prob(x)[:, 0].detach()

    assert_within_errors(marginal_likelihood(Pair(model, guide), x, num_samples=2000), exact(), errors=5)
    with torch.no_grad():
        pyro.param("centre").unconstrained().fill_(2.8)
    assert_within_errors(marginal_likelihood(Pair(model, guide), x, num_samples=2000), exact(), errors=5)


# What is handed on


def double(values):
    return torch.tensor(values, dtype=torch.double)


@pytest.fixture
def result():
    return MarginalLikelihood(
        log_px=double([-3.0, -1.0]),
        std_error=double([0.3, 0.4]),
        khat=double([0.5, math.nan]),
        ess=double([10.0, 20.0]),
        datum_elbo=double([-4.5, -2.5]),
        datum_elbo_std_error=double([0.06, 0.08]),
        bounds={1: double([-4.0, -2.0]), 50: double([-3.0, -1.0])},
        num_samples=50,
        repeated=torch.tensor([False, True]),
        enumerated=True,
    )


def test_the_summary_is_of_the_values_for_each_datum(result):
    assert result.summary() == {
        "log_likelihood": -2.0,
        "mean_std_error": pytest.approx(0.25),
        "data_std_error": pytest.approx(1.0),
        "elbo": -3.5,
        "elbo_std_error": pytest.approx(0.05),
        "bounds": {"1": -3.0, "50": -2.0},
        "enumerated": True,
        "khat_median": pytest.approx(0.5),
        "khat_limit": pytest.approx(1 - 1 / math.log10(50)),
        "khat_above_limit": 1,
        "is_poor_proposal": True,
        "ess_median": 10.0,
        "num_repeated": 1,
        "num_data": 2,
        "num_samples": 50,
        "precision_error": None,
        "joint": False,
        "notes": [],
        "data": "",
    }
    text = str(result)
    assert "-2.000 +- 0.250 nats per datum (Monte Carlo, K = 50)" in text
    assert "ELBO     = -3.500 +- 0.050; (classes summed out) L_1 = -3.000, L_50 = -2.000" in text
    assert (
        "median 0.50, 1 of 2 above 0.41: the guide is a poor proposal, so the errors are too small" in text
    )
    assert "for 1 of 2 data all draws of the discrete latents are the same" in text


def test_the_json_file_holds_every_value_with_null_for_nan(result, tmp_path):
    result.to_json(tmp_path / "result.json")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads((tmp_path / "result.json").read_text(), parse_constant=refuse)
    assert content["summary"] == result.summary()
    assert content["data"] == {
        "log_px": [-3.0, -1.0],
        "std_error": [0.3, 0.4],
        "khat": [pytest.approx(0.5), None],
        "ess": [10.0, 20.0],
        "datum_elbo": [-4.5, -2.5],
        "datum_elbo_std_error": [0.06, 0.08],
        "repeated": [False, True],
        "bounds": {"1": [-4.0, -2.0], "50": [-3.0, -1.0]},
    }


def test_one_datum_has_no_spread_over_data(make_ppca, draw, tmp_path):
    ppca = make_ppca()
    result = score(ppca, draw(ppca, 1), num_samples=1)
    assert math.isnan(result.data_std_error)
    result.to_json(tmp_path / "result.json")
    summary = json.loads((tmp_path / "result.json").read_text())["summary"]
    assert summary["data_std_error"] is None
    assert summary["mean_std_error"] is None
    assert "+- unknown nats per datum (Monte Carlo, K = 1); +- unknown over the 1 data" in str(result)
    assert "k-hat    : not known (K is below 30" in str(result)


# Memory

PEAK = """
import resource, sys, torch
torch.set_num_threads(1)
from pyrovae.recipes import About, vae as build
from pyrovae.evaluation import marginal_likelihood
vae = build(About((1, 28, 28)), latent_dim=2, width=16).pair
x = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)).round()
marginal_likelihood(vae, x, num_samples=int(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
def test_peak_memory_does_not_grow_with_the_number_of_draws():
    def peak(num_samples):
        command = [sys.executable, "-W", "ignore", "-c", PEAK, str(num_samples)]
        return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    few = peak(500)
    # All draws at once would take 330 MB beside the 860 MB that the process takes anyway.
    # Now and then a process reports hundreds of MB more, whatever the number of draws: so it may try again.
    assert any(peak(50_000) < 1.1 * few for _ in range(3))
