"""Inference gaps against closed forms: where the posterior is known, so is the best q of a family."""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pyrovae.errors import InputError
from pyrovae.evaluation import InferenceGaps, best_guide, inference_gaps
from pyrovae.evaluation.gaps import gap_statistics
from pyrovae.flows import InverseAutoregressive, Planar
from pyrovae.models import VAE
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO
from pyrovae.posteriors import FlowPosterior


def gaps(pair, x, y=None, num_samples=1000, steps=200, **settings):
    settings = {"learning_rate": 0.05, "particles": 8} | settings
    return inference_gaps(pair, x, y, num_samples=num_samples, steps=steps, **settings)


def assert_within_errors(found, exact, errors, more=0.0, factor=4.5):
    assert ((found - exact).abs() <= factor * errors + more).all()


class Pair:
    """A model and a guide as plain functions."""

    def __init__(self, model, guide):
        self.model, self.guide = model, guide


def diagonal_gap(posterior):
    """KL(q* || p) of a normal posterior: q* has its mean and the diagonal of its precision."""
    precision = posterior.precision_matrix
    diagonal = precision.diagonal(dim1=-2, dim2=-1)
    return 0.5 * (diagonal.log().sum(-1) - precision.logdet())


# Probabilistic PCA: everything is known


def test_a_full_covariance_normal_has_no_approximation_gap(make_ppca, draw):
    ppca = make_ppca(3, 6, spread=1.5)
    x = draw(ppca, 8)
    result = gaps(ppca, x, steps=300)
    exact = torch.distributions.kl_divergence(ppca.posterior(x), ppca.exact_posterior(x)).detach()
    torch.testing.assert_close(result.log_px, ppca.log_evidence(x).detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.approximation, torch.zeros(8).double(), atol=1e-5, rtol=0)
    assert_within_errors(result.amortisation, exact, result.std_error["amortisation"])
    assert_within_errors(result.elbo, ppca.log_evidence(x) - exact, result.std_error["elbo"])
    assert (result.std_error["amortisation"] < 0.05).all()
    assert (exact > 0.15).all()  # so that there was something to be found


def diagonal_pair(ppca):
    """PPCA with a diagonal guide, off by a shift and a stretch."""

    def guide(x):
        exact = ppca.exact_posterior(x)
        scale = exact.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(exact.mean + 0.5 * scale, 1.2 * scale).to_event(1))

    return Pair(ppca.model, guide)


def test_the_gaps_of_a_diagonal_normal_are_the_exact_kls_and_add_up(make_ppca, draw):
    ppca = make_ppca(3, 6, noise=2.0)
    x = draw(ppca, 8)
    with torch.no_grad():
        exact = ppca.exact_posterior(x)
        scale = exact.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
        covariance = torch.diag_embed((1.2 * scale).square())
        q = torch.distributions.MultivariateNormal(exact.mean + 0.5 * scale, covariance)
        total, approximation = torch.distributions.kl_divergence(q, exact), diagonal_gap(exact)
        log_px = ppca.log_evidence(x)
    result = gaps(diagonal_pair(ppca), x, num_samples=4000)
    errors = result.std_error
    assert_within_errors(result.log_px, log_px, errors["log_px"])
    assert_within_errors(result.log_px_by_guide, log_px, errors["log_px_by_guide"])
    # The optimum is missed by little: the error of the draws hardly hides it.
    assert_within_errors(result.approximation, approximation, errors["approximation"], more=0.003)
    assert_within_errors(result.amortisation, total - approximation, errors["amortisation"], more=0.003)
    assert_within_errors(result.total, total, errors["total"])
    torch.testing.assert_close(result.approximation + result.amortisation, result.total)
    assert abs(result.mean("approximation") - approximation.mean()) < 0.003 + 4 * result.mean_std_error(
        "approximation"
    )
    assert (approximation > 0.05).all()
    assert (result.std_error["approximation"] < 0.03).all()


def test_the_best_guide_is_the_best_of_its_family_for_its_data(make_ppca, draw):
    ppca = make_ppca(3, 6, noise=2.0)
    x = draw(ppca, 8)
    pair = diagonal_pair(ppca)
    guide = best_guide(pair, x, steps=200, particles=8, learning_rate=0.05)
    exact = ppca.exact_posterior(x)
    fn = poutine.trace(guide).get_trace(x).nodes["z"]["fn"]
    scale = exact.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
    assert ((fn.mean - exact.mean).abs() / scale).max() < 0.1  # begins at 0.5
    torch.testing.assert_close(fn.variance.sqrt(), scale, atol=0, rtol=0.05)  # begins at 1.2
    with pytest.raises(InputError, match="called with 1 data, but has parameters for 8"):
        guide(x[:1])


def test_what_is_the_best_already_is_kept(make_ppca, draw):
    ppca = make_ppca(2, 5, spread=1.0)
    x = draw(ppca, 4)
    result = gaps(ppca, x, num_samples=100, steps=5, learning_rate=0.5)
    for gap in (result.approximation, result.amortisation):
        torch.testing.assert_close(gap, torch.zeros(4).double(), atol=1e-9, rtol=0)


def test_steps_that_lead_astray_are_taken_back(make_ppca, draw):
    ppca = make_ppca(2, 5)
    result = gaps(diagonal_pair(ppca), draw(ppca, 6), num_samples=200, steps=2, learning_rate=50.0)
    assert torch.allclose(result.best_elbo, result.elbo)
    assert result.std_error["amortisation"].max() < 1e-6


def test_the_pairs_own_parameters_neither_move_nor_get_gradients(make_ppca, draw):
    ppca = make_ppca(2, 5)
    before = {name: value.clone() for name, value in ppca.state_dict().items()}
    gaps(ppca, draw(ppca, 3), num_samples=10, steps=3)
    assert all(torch.equal(value, before[name]) for name, value in ppca.state_dict().items())
    assert all(value.grad is None and value.requires_grad for value in ppca.parameters())


def test_a_datums_gaps_do_not_depend_on_its_company(make_ppca, draw):
    ppca = make_ppca(2, 5, noise=2.0)
    x = draw(ppca, 7)
    pair = diagonal_pair(ppca)
    together, apart = gaps(pair, x), gaps(pair, x, batch_size=3, seed=1)
    for name in ("log_px", "best_elbo", "approximation", "amortisation"):
        error = together.std_error[name].hypot(apart.std_error[name])
        assert_within_errors(getattr(together, name), getattr(apart, name), error, more=0.002)


@pytest.mark.filterwarnings("ignore:k-hat")  # of few draws
def test_the_errors_are_those_of_the_figures(make_ppca, draw):
    ppca = make_ppca(2, 5, noise=2.0)
    x = draw(ppca, 2)
    pair = diagonal_pair(ppca)
    # q stays where it is, so that only the reported draws differ.
    settings = {"num_samples": 100, "steps": 1, "learning_rate": 1e-9}
    # Each datum has draws of its own, so copies of the data stand for 60 estimates.
    result = gaps(pair, x.repeat(60, 1), **settings)
    for name in ("log_px", "log_px_by_guide", "elbo", "best_elbo", "approximation", "total"):
        spread = getattr(result, name).view(60, 2).std(0)
        reported = result.std_error[name].view(60, 2).mean(0)
        ratio = spread / reported  # its own error is about 1 / sqrt(2 * 59) = 0.09
        assert ((ratio > 0.7) & (ratio < 1.35)).all(), name


def test_the_same_seed_gives_the_same_bits_and_leaves_the_callers_stream_alone(make_ppca, draw):
    ppca = make_ppca(2, 5)
    x = draw(ppca, 3)
    before = torch.get_rng_state()
    one = gaps(ppca, x, num_samples=20, steps=3, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    again, other = (gaps(ppca, x, num_samples=20, steps=3, seed=seed) for seed in (3, 4))
    assert torch.equal(one.best_elbo, again.best_elbo)
    assert not torch.equal(one.best_elbo, other.best_elbo)


# Other families and programs


def conjugate(prior, likelihood, start, x):
    """A pair whose posterior is of the prior's family; the guide is off."""

    def model(x):
        with pyro.plate("rows", len(x)):
            rate = pyro.sample("rate", prior.expand([1]).to_event(1))
            pyro.sample("count", likelihood(rate).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("rate", start.expand([len(x), 1]).to_event(1))

    return Pair(model, guide), x


def double(*values):
    return torch.tensor(values, dtype=torch.double)


FAMILIES = {
    "Normal": lambda: conjugate(
        dist.Normal(double(0), 1),
        lambda z: dist.Normal(z, 0.5),
        dist.Normal(double(0.3), 0.7),
        double(1, -1),
    ),
    "LogNormal": lambda: conjugate(
        dist.LogNormal(double(0), 1),
        lambda z: dist.LogNormal(z.log(), 0.5),
        dist.LogNormal(double(0.3), 0.7),
        double(2.0, 0.4),
    ),
    "Gamma": lambda: conjugate(
        dist.Gamma(double(2), 1.5), dist.Poisson, dist.Gamma(double(3), 3.0), double(3.0, 1.0)
    ),
    "Beta": lambda: conjugate(
        dist.Beta(double(2), 1.5),
        lambda z: dist.Binomial(5, probs=z),
        dist.Beta(double(3), 3.0),
        double(4.0, 1.0),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_that_holds_the_posterior_has_no_approximation_gap(family):
    pair, x = FAMILIES[family]()
    result = gaps(pair, x[:, None], steps=250)
    torch.testing.assert_close(result.approximation, torch.zeros(2).double(), atol=2e-4, rtol=0)
    assert (result.amortisation > 0.01).all()


def two_causes(x):
    """x = a + b + noise: independent causes, whose posterior is correlated through what they explain."""
    with pyro.plate("rows", len(x)):
        a = pyro.sample("weather", dist.Normal(x.new_zeros(()), 1.0))
        b = pyro.sample("traffic", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("delay", dist.Normal(a + b, 0.8), obs=x.squeeze(-1))


def mean_field(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("traffic", dist.Normal(0.2 * x.squeeze(-1), 0.7))
        pyro.sample("weather", dist.Normal(0.6 * x.squeeze(-1), 0.9))


def test_two_sites_of_a_mean_field_guide_are_optimised_together():
    x = double(0.5, -1.0, 2.5)[:, None]
    precision = torch.eye(2).double() + 1 / 0.8**2
    posterior = torch.distributions.MultivariateNormal(torch.zeros(2).double(), precision_matrix=precision)
    exact = diagonal_gap(posterior)
    result = gaps(Pair(two_causes, mean_field), x, num_samples=4000)
    log_px = torch.distributions.Normal(0, math.sqrt(2 + 0.8**2)).log_prob(x[:, 0])
    assert_within_errors(result.log_px, log_px, result.std_error["log_px"])
    assert_within_errors(result.approximation, exact, result.std_error["approximation"], more=0.002)
    assert exact > 0.1


def test_sites_under_plates_within_the_datas_are_free_for_each_member():
    def model(x):
        with pyro.plate("rows", len(x)), pyro.plate("views", 3, dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x.transpose(0, 1))

    def guide(x):
        with pyro.plate("rows", len(x)), pyro.plate("views", 3, dim=-2):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

    x = torch.randn(4, 3, 2).double()
    result = gaps(Pair(model, guide), x, num_samples=200, steps=300)
    exact = torch.distributions.Normal(0, math.sqrt(1.25)).log_prob(x).sum((1, 2))
    torch.testing.assert_close(result.log_px, exact, atol=1e-4, rtol=0)
    torch.testing.assert_close(result.approximation, torch.zeros(4).double(), atol=1e-4, rtol=0)
    assert (result.amortisation > 1).all()


@pytest.mark.filterwarnings("ignore:k-hat")
def test_m2s_class_is_summed_out_and_z_is_free_for_each_class(make_m2, binary_images):
    m2, x = make_m2(), binary_images[:4].double()
    settings = {"num_samples": 2000, "steps": 120, "learning_rate": 0.1, "particles": 4}
    result = gaps(m2, x, **settings)
    by_class = [gaps(m2, x, torch.full((4,), label), **settings) for label in range(3)]
    # The best q(y | x) is in proportion to the exponential of the best bound given y.
    best = torch.stack([of.best_elbo for of in by_class]).logsumexp(0)
    weights = torch.stack([of.best_elbo for of in by_class]).softmax(0)
    errors = torch.stack([of.std_error["best_elbo"] for of in by_class])
    error = (weights * errors).square().sum(0).sqrt().hypot(result.std_error["best_elbo"])
    assert_within_errors(result.best_elbo, best, error, more=0.003)
    log_px = torch.stack([of.log_px for of in by_class]).logsumexp(0)
    error = (weights * torch.stack([of.std_error["log_px"] for of in by_class])).square().sum(0).sqrt()
    assert_within_errors(result.log_px, log_px, error.hypot(result.std_error["log_px"]))
    assert (result.amortisation > 10 * result.std_error["amortisation"]).all()
    assert (result.approximation > -3 * result.std_error["approximation"]).all()


@pytest.mark.filterwarnings("ignore:k-hat")
def test_the_elbo_of_an_enumerated_pair_weighs_each_class_by_its_probability(make_m2, binary_images):
    m2, x = make_m2(), binary_images[:3].double()
    result = gaps(m2, x, num_samples=4000, steps=1)
    torch.manual_seed(1)
    copies = [datum.expand(500, *datum.shape) for datum in x]
    bounds = torch.tensor(
        [[-ELBO().loss(m2.model, m2.guide, of) / 500 for of in copies] for _ in range(20)]
    )
    error = (bounds.double().std(0) / 20**0.5).hypot(result.std_error["elbo"])
    assert_within_errors(result.elbo, bounds.double().mean(0), error)


@pytest.mark.filterwarnings("ignore:k-hat")
@pytest.mark.parametrize("flow", [InverseAutoregressive, Planar])
def test_a_flows_own_tensors_for_a_datum_are_freed_and_its_networks_are_not(make_vae, binary_images, flow):
    vae = make_vae()
    posterior = FlowPosterior(MLP((1, 4, 4), 6, hidden=(8,)), 2, flow(2))
    pair = VAE(vae.prior, vae.likelihood, posterior).double()
    with torch.no_grad():
        pair.likelihood.network.output_bias.normal_(0, 1)
        for layer in pair.likelihood.network.layers:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(3)
    x = binary_images[:4].double()
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    result = gaps(pair, x, steps=120)
    diagonal = gaps(VAE(vae.prior, pair.likelihood, vae.posterior).double(), x, steps=120)
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())
    error = result.std_error["log_px"].hypot(diagonal.std_error["log_px"])
    assert_within_errors(result.log_px, diagonal.log_px, error, factor=5)
    assert (result.amortisation > 5 * result.std_error["amortisation"]).all()
    assert (result.approximation > -3 * result.std_error["approximation"]).all()
    # The family holds the diagonal normal, or nearly so, and its best is not worse.
    assert result.mean("best_elbo") > diagonal.mean("best_elbo") - 0.05


# Refusals


def guide_of(**sites):
    def guide(x):
        drawn = {}
        with pyro.plate("rows", len(x)):
            for name, make in sites.items():
                drawn[name] = pyro.sample(name, make(x.squeeze(-1), drawn))

    return guide


def test_a_guide_whose_latents_hang_on_one_another_is_refused():
    guide = guide_of(
        weather=lambda x, drawn: dist.Normal(x, 1.0),
        traffic=lambda x, drawn: dist.Normal(x - drawn["weather"], 1.0),
    )
    with pytest.raises(InputError, match=r"site 'traffic' depends on what was drawn at another site \(loc"):
        gaps(Pair(two_causes, guide), torch.ones(3, 1), num_samples=10)


def test_an_enumerated_class_that_hangs_on_a_draw_is_refused(make_m1m2, binary_images):
    with pytest.raises(InputError, match="site 'y' depends on what was drawn at another site"):
        gaps(make_m1m2(), binary_images.double(), num_samples=10)


def test_a_discrete_latent_without_enumeration_is_refused():
    def model(x):
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(k, 1.0), obs=x.squeeze(-1))

    guide = guide_of(k=lambda x, drawn: dist.Bernoulli(logits=x))
    with pytest.raises(
        InputError, match=r"site 'k' \(Bernoulli\) is neither reparameterised nor enumerated"
    ):
        gaps(Pair(model, guide), torch.ones(3, 1), num_samples=10)


def test_a_family_whose_parameters_are_not_known_is_refused():
    def point(x, _):
        return dist.Delta(x + torch.randn(len(x)), log_density=1.0)

    guide = guide_of(weather=lambda x, _: dist.Normal(x, 1.0), traffic=point)
    with pytest.raises(InputError, match=r"site 'traffic' (has a \w+, .*arg_constraints|depends on)"):
        gaps(Pair(two_causes, guide), torch.ones(3, 1), num_samples=10)


@pytest.mark.parametrize(
    "settings",
    [{"num_samples": 0}, {"steps": 0}, {"particles": 0}, {"learning_rate": 0.0}, {"batch_size": 0}],
)
def test_settings_out_of_range_are_refused(make_ppca, draw, settings):
    ppca = make_ppca()
    with pytest.raises(InputError, match=f"{next(iter(settings))} is 0"):
        gaps(ppca, draw(ppca, 2), **settings)


# What is handed on


def test_an_unreliable_evidence_is_said_to_be(make_ppca, draw):
    ppca = make_ppca(2, 5)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 0.02).to_event(1))

    x = draw(ppca, 3)
    with pytest.warns(
        UserWarning,
        match=r"k-hat is above 0\.67.* for 3 of 3 data: the best q is a poor proposal.* too small",
    ) as caught:
        result = gaps(Pair(ppca.model, guide), x, steps=1, learning_rate=1e-9)
    assert caught[0].filename == __file__
    assert result.num_unreliable == 3


def test_figures_are_of_the_draws():
    log_weights, terms = double([0.0, 1.0], [math.log(3), 2.0]), double([-1.0, 0.0], [0.0, 2.0])
    found = gap_statistics((terms - 5, terms), (log_weights - 800, log_weights - 800))
    torch.testing.assert_close(
        found["log_px"], double(math.log(2), math.log((math.e + math.e**2) / 2)) - 800
    )
    torch.testing.assert_close(found["elbo"], double(-0.5, 1.0))
    torch.testing.assert_close(found["best_elbo"], log_weights.mean(0) - 800)
    torch.testing.assert_close(found["error of elbo"], terms.std(0) / 2**0.5)
    torch.testing.assert_close(found["error of log_px"][0], double(0.5, 1.5).std() / 2**0.5)


@pytest.fixture
def result():
    names = ("log_px", "log_px_by_guide", "elbo", "best_elbo", "approximation", "amortisation", "total")
    return InferenceGaps(
        log_px=double(-3.0, -1.0),
        log_px_by_guide=double(-3.1, -1.1),
        elbo=double(-6.0, -5.0),
        best_elbo=double(-4.0, -2.0),
        std_error={name: double(0.3, 0.4) for name in names},
        khat=double(0.8, math.nan),
        num_samples=50,
        steps=7,
        particles=2,
    )


def test_the_summary_and_the_text_are_of_the_values_for_each_datum(result, tmp_path):
    summary = result.summary()
    assert summary["approximation"] == {
        "mean": 1.0,
        "mean_std_error": pytest.approx(0.25),
        "data_std_error": pytest.approx(0.0),
    }
    assert summary["amortisation"]["mean"] == 2.5
    assert summary["total"]["mean"] == 3.5
    assert summary["khat_limit"] == pytest.approx(1 - 1 / math.log10(50))
    assert summary["khat_above_limit"] == 1
    assert [summary[name] for name in ("num_data", "num_samples", "steps", "particles")] == [2, 50, 7, 2]
    text = str(result)
    assert "log p(x) - ELBO   = 3.500 +- 0.250 nats per datum" in text
    assert "  approximation   = 1.000 +- 0.250" in text
    assert "log p(x) = -2.000 (with the guide as proposal -2.100), best q's ELBO = -3.000" in text
    assert "guide's ELBO = -5.500 (Monte Carlo, K = 50)" in text
    assert "k-hat    : median 0.80, 1 of 2 above 0.41: the guide is a poor proposal" in text
    result.to_json(tmp_path / "gaps.json")
    content = json.loads((tmp_path / "gaps.json").read_text())
    assert content["summary"] == summary
    assert content["data"]["amortisation"] == [2.0, 3.0]
    assert content["data"]["std_error"]["total"] == [0.3, 0.4]
    assert content["data"]["khat"] == [0.8, None]


def test_one_draw_and_one_datum_have_no_errors(make_ppca, draw, tmp_path):
    ppca = make_ppca()
    result = gaps(ppca, draw(ppca, 1), num_samples=1, steps=1)
    assert all(error.isnan().all() for error in result.std_error.values())
    result.to_json(tmp_path / "gaps.json")
    summary = json.loads((tmp_path / "gaps.json").read_text())["summary"]
    assert summary["total"]["mean_std_error"] is None
    assert summary["total"]["data_std_error"] is None


# Flows of Pyro


def normal_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def test_a_flow_of_pyro_has_free_parameters_in_its_base():
    def guide(x):
        base = dist.Normal(0.2 * x, 0.4)  # pushed to N(0.4 x + 1, 0.8)
        flow = dist.TransformedDistribution(base, [dist.transforms.AffineTransform(1.0, 2.0, event_dim=1)])
        with pyro.plate("data", len(x)):
            pyro.sample("z", flow)

    x = torch.randn(6, 2, dtype=torch.double)
    result = gaps(Pair(normal_model, guide), x, steps=300)
    posterior, q = dist.Normal(x / 2, 0.5**0.5), dist.Normal(0.4 * x + 1, 0.8)
    exact = torch.distributions.kl_divergence(q, posterior).sum(-1)
    torch.testing.assert_close(result.approximation, torch.zeros(6).double(), atol=1e-5, rtol=0)
    assert_within_errors(result.amortisation, exact, result.std_error["amortisation"])


def test_a_flow_of_pyro_that_differs_from_datum_to_datum_is_refused():
    def guide(x):
        transform = dist.transforms.AffineTransform(x, 1.0, event_dim=1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(dist.Normal(0.2 * x, 0.4), [transform]))

    with pytest.raises(InputError, match="TransformedDistribution whose transforms are the same for all"):
        gaps(Pair(normal_model, guide), torch.randn(6, 2), steps=2)
