"""The averaged KL's parts against integrals over a grid and sums written out."""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.evaluation import active_units, aggregated_posterior, kl, kl_decomposition
from pyrovae.flows import Planar
from pyrovae.models import VAE
from pyrovae.networks import MLP
from pyrovae.posteriors import FlowPosterior
from pyrovae.programs.pair import Pair


def coded(posterior, prior=None, names=("code",)):
    """A pair whose data are x of shape (N, D), with the same prior for each latent."""

    def model(x):
        with pyro.plate("rows", len(x)):
            for name in names:
                size = posterior(x, names[0]).event_shape
                pyro.sample(name, prior or dist.Normal(x.new_zeros(size), 1.0).to_event(len(size)))
            pyro.sample("x", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            for name in reversed(names):
                pyro.sample(name, posterior(x, name))

    return Pair(model, guide)


def decompose(pair, x, y=None, num_samples=2000, **settings):
    return kl_decomposition(pair, x, y, num_samples=num_samples, **settings)


def linear(slope, scale):
    """q(z | x) = N(slope * x, scale^2) in each dimension."""
    return lambda x, name="code": dist.Normal(slope * x, x.new_tensor(scale)).to_event(1)


def double(*values):
    return torch.tensor(values, dtype=torch.double)


def assert_within_errors(result, factor=4.5, **exact):
    for name, value in exact.items():
        error = result.std_error[name]
        assert abs(getattr(result, name) - float(value)) < factor * error + 1e-9, name


# The averaged KL


GRID = torch.linspace(-7, 7, 281, dtype=torch.double)
CELL = (GRID[1] - GRID[0]).item()


def integral(log_q, log_p, dims=1):
    """KL between densities given on a grid."""
    return (log_q.exp() * (log_q - log_p)).sum() * CELL**dims


def test_the_parts_are_the_integrals_of_a_mixture_in_one_dimension():
    x = double(-1.0, 0.3, 2.0)[:, None]
    each = torch.distributions.Normal(0.8 * x, 0.5)
    prior = torch.distributions.Normal(0.0, 1.0)
    log_q = each.log_prob(GRID).logsumexp(0) - math.log(3)
    marginal = integral(log_q, prior.log_prob(GRID))
    average = torch.distributions.kl_divergence(each, prior).mean()
    result = decompose(coded(linear(0.8, 0.5)), x)
    assert_within_errors(
        result,
        average_kl=average,
        marginal_kl=marginal,
        mutual_information=average - marginal,
        dimension_wise_kl=marginal,
    )
    assert result.total_correlation == pytest.approx(0, abs=1e-12)
    assert all(
        0 < error < 0.02 for error in (result.std_error[name] for name in ("average_kl", "marginal_kl"))
    )


def test_the_parts_are_the_integrals_of_a_mixture_in_two_dimensions():
    x = double([-1.0, -1.0], [1.0, 0.5], [0.5, 1.5])
    each = torch.distributions.Normal(x, double(0.5, 0.4))
    prior = torch.distributions.Normal(0.0, 1.0)
    points = torch.cartesian_prod(GRID, GRID)
    log_q = each.log_prob(points[:, None]).sum(-1).logsumexp(1) - math.log(3)
    log_q_dims = each.log_prob(GRID[:, None, None]).logsumexp(1) - math.log(3)  # (grid, dimensions)
    marginal = integral(log_q, prior.log_prob(points).sum(-1), dims=2)
    dims = [integral(log_q_dims[:, d], prior.log_prob(GRID)) for d in range(2)]
    average = torch.distributions.kl_divergence(each, prior).sum(-1).mean()
    result = decompose(coded(linear(1.0, [0.5, 0.4])), x)
    assert_within_errors(
        result,
        average_kl=average,
        marginal_kl=marginal,
        mutual_information=average - marginal,
        dimension_wise_kl=sum(dims),
        total_correlation=marginal - sum(dims),
    )
    assert marginal - sum(dims) > 0.2
    torch.testing.assert_close(result.per_dimension["code"], torch.stack(dims), atol=0.03, rtol=0)


def test_the_parts_add_up_exactly(make_vae, binary_images):
    result = decompose(make_vae(), binary_images, num_samples=3)
    assert result.average_kl == pytest.approx(result.mutual_information + result.marginal_kl, abs=1e-9)
    assert result.marginal_kl == pytest.approx(
        result.total_correlation + result.dimension_wise_kl, abs=1e-5
    )
    assert result.per_dimension["z"].sum().item() == pytest.approx(result.dimension_wise_kl, abs=1e-5)
    assert result.sites == {}


def test_the_average_is_the_elbos_kl(make_vae, binary_images):
    vae = make_vae()
    q, p = vae.posterior(binary_images), vae.prior()
    exact = torch.distributions.kl_divergence(q, p.expand(q.batch_shape)).mean().detach()
    assert_within_errors(decompose(vae, binary_images, num_samples=200), average_kl=exact)


def test_one_datum_has_no_index_to_be_informed_about():
    result = decompose(coded(linear(2.0, 0.3)), double([1.0, -0.5]), num_samples=50)
    assert result.mutual_information == pytest.approx(0, abs=1e-12)
    assert result.marginal_kl == pytest.approx(result.average_kl)
    assert result.total_correlation == pytest.approx(0, abs=1e-12)


def test_codes_that_do_not_overlap_tell_all_that_there_is_to_tell():
    result = decompose(coded(linear(100.0, 0.1)), torch.arange(7).double()[:, None], num_samples=20)
    assert result.mutual_information == pytest.approx(math.log(7), abs=1e-12)
    assert result.log_num_data == pytest.approx(math.log(7))
    assert result.std_error["mutual_information"] == pytest.approx(0, abs=1e-12)


def test_codes_that_say_nothing_have_no_information():
    result = decompose(coded(linear(0.0, 0.5)), torch.randn(9, 2).double(), num_samples=5)
    assert result.mutual_information == pytest.approx(0, abs=1e-9)


def test_the_errors_are_those_of_the_figures():
    # The last datum's KL is far above the others': that is no error of the draws.
    pair, x = coded(linear(1.0, [0.5, 0.4])), double([-1.0, -1.0], [1.0, 0.5], [2.5, 2.0])
    results = [decompose(pair, x, num_samples=40, seed=seed) for seed in range(80)]
    for name in kl.FIGURES:
        spread = double(*[getattr(result, name) for result in results]).std()
        reported = double(*[result.std_error[name] for result in results]).square().mean().sqrt()
        assert 0.7 < spread / reported < 1.35, name  # its own error is about 1 / sqrt(158) = 0.08


def test_neither_chunks_of_draws_nor_of_data_change_a_figure(make_vae, binary_images, monkeypatch):
    vae = make_vae().double()
    whole = decompose(vae, binary_images.double(), num_samples=2)
    monkeypatch.setattr(kl, "DENSITIES", 5 * 24)
    draws = decompose(vae, binary_images.double(), num_samples=2)
    for name in kl.FIGURES:
        assert getattr(draws, name) == pytest.approx(getattr(whole, name), abs=1e-12)
    monkeypatch.setattr(aggregated_posterior, "DATA", 7)  # which draws other numbers
    data = decompose(vae, binary_images.double(), num_samples=50)
    monkeypatch.undo()
    exact = decompose(vae, binary_images.double(), num_samples=1000)
    assert_within_errors(data, **{name: getattr(exact, name) for name in kl.FIGURES})


def test_the_same_seed_gives_the_same_figures_and_leaves_the_callers_stream_alone(make_vae, binary_images):
    vae = make_vae()
    before = torch.get_rng_state()
    one = decompose(vae, binary_images, num_samples=2, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    again, other = (decompose(vae, binary_images, num_samples=2, seed=seed) for seed in (3, 4))
    assert one.average_kl == again.average_kl
    assert one.average_kl != other.average_kl


# Several latents, and dependence


def test_latents_of_a_mean_field_pair_are_taken_together_and_one_by_one():
    def posterior(x, name):
        return dist.Normal(x[:, :1] if name == "left" else 0 * x[:, 1:], 0.5).to_event(1)

    x = double([-1.0, 0.0], [1.0, 3.0])
    result = decompose(coded(posterior, names=("left", "right")), x, num_samples=1000)
    assert set(result.sites) == {"left", "right"}
    left, right = result.sites["left"], result.sites["right"]
    assert result.mutual_information == pytest.approx(left.mutual_information)  # the right says nothing
    assert right.mutual_information == pytest.approx(0, abs=1e-9)
    assert result.average_kl == pytest.approx(left.average_kl + right.average_kl)
    alone = coded(lambda x, name="left": posterior(x, "left"), names=("left",))
    exact = decompose(alone, x, num_samples=4000, seed=1)
    for name in ("average_kl", "mutual_information", "marginal_kl"):
        error = math.hypot(left.std_error[name], exact.std_error[name])
        assert abs(getattr(left, name) - getattr(exact, name)) < 4.5 * error
    assert set(result.per_dimension) == {"left", "right"}
    assert result.per_dimension["left"].item() == pytest.approx(left.dimension_wise_kl)


def test_dimensions_that_are_correlated_are_not_taken_apart():
    scale_tril = double([1.0, 0.0], [0.7, 0.5])
    pair = coded(lambda x, name="code": dist.MultivariateNormal(x, scale_tril=scale_tril))
    result = decompose(pair, torch.randn(4, 2).double(), num_samples=300)
    assert result.total_correlation is None
    assert result.dimension_wise_kl is None
    assert result.per_dimension is None
    assert "total correlation" not in str(result)
    assert set(result.std_error) == {"average_kl", "mutual_information", "marginal_kl"}
    correlated = dist.MultivariateNormal(double(0.0, 0.0), scale_tril=scale_tril)
    assert decompose(coded(linear(1.0, 0.5), correlated), torch.randn(4, 2).double(), num_samples=3)


def test_a_class_is_a_latent_like_any_other(make_m2, binary_images):
    m2, x = make_m2(), binary_images[:6].double()
    with torch.no_grad():
        m2.classifier.network.layers[-1].weight.mul_(30)
    result = decompose(m2, x, num_samples=500)
    probabilities, prior = m2.classifier(x).probs.detach(), m2.class_prior().probs.detach()
    aggregated = probabilities.mean(0)
    exact = (probabilities * (probabilities / aggregated).log()).sum(-1).mean()
    marginal = (aggregated * (aggregated / prior).log()).sum()
    assert exact > 0.02
    assert set(result.sites) == {"y"}  # z depends on it
    assert_within_errors(result.sites["y"], mutual_information=exact, marginal_kl=marginal)
    assert result.total_correlation is None
    # Jointly: E_q(y | x) of KL(q(z | x, y) || p(z)), beside the class's own.
    kl = torch.stack(
        [
            torch.distributions.kl_divergence(m2.posterior(x, y), m2.prior().expand([6]))
            for y in torch.arange(3)[:, None].expand(3, 6)
        ],
        -1,
    )
    average = ((kl.detach() + (probabilities / prior).log()) * probabilities).sum(-1).mean()
    assert_within_errors(result, average_kl=average)


def test_a_hierarchical_guide_is_scored_as_it_runs():
    def model(x):
        with pyro.plate("rows", len(x)):
            top = pyro.sample("top", dist.Normal(x.new_zeros(()), 1.0))
            low = pyro.sample("low", dist.Normal(top, 0.5))
            pyro.sample("x", dist.Normal(low, 1.0), obs=x.squeeze(-1))

    def guide(x):
        with pyro.plate("rows", len(x)):
            low = pyro.sample("low", dist.Normal(x.squeeze(-1), 0.6))
            pyro.sample("top", dist.Normal(0.7 * low, 0.4))

    x = double(-1.0, 0.5, 2.0)[:, None]
    result = decompose(Pair(model, guide), x)
    # Given `low`, `top` does not depend on the datum: the information is that of `low`.
    log_q = torch.distributions.Normal(x, 0.6).log_prob(GRID).logsumexp(0) - math.log(3)
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.6**2)
    information = -(log_q.exp() * log_q).sum() * CELL - entropy
    assert_within_errors(result, mutual_information=information)
    assert result.sites == {}


def test_latents_under_plates_within_the_datas_are_one_code():
    def model(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("whole", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("views", 3, dim=-2):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x.transpose(0, 1))

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("whole", dist.Normal(x.sum((1, 2)), 0.5))
            with pyro.plate("views", 3, dim=-2):
                pyro.sample("z", dist.Normal(x.transpose(0, 1), 0.5).to_event(1))

    x = torch.randn(4, 3, 2).double()
    result = decompose(Pair(model, guide), x, num_samples=500)
    flat = coded(lambda f, name="code": dist.Normal(torch.cat([f, f.sum(1, True)], 1), 0.5).to_event(1))
    exact = decompose(flat, x.flatten(1), num_samples=2000, seed=1)
    for name in kl.FIGURES:
        error = math.hypot(result.std_error[name], exact.std_error[name])
        assert abs(getattr(result, name) - getattr(exact, name)) < 4.5 * error
    assert result.per_dimension["z"].shape == (3, 2)
    assert result.per_dimension["whole"].shape == ()
    assert active_units(Pair(model, guide), x).variances["z"].shape == (3, 2)
    expected = x.var(0)
    torch.testing.assert_close(active_units(Pair(model, guide), x).variances["z"], expected)


# Refusals


def test_a_prior_that_differs_between_data_is_refused(make_m2, binary_images, classes):
    def model(x, y):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(y.double(), 1.0))
            pyro.sample("x", dist.Normal(x.new_zeros(1), 1.0).to_event(1), obs=x)

    def guide(x, y):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(x.squeeze(-1), 1.0))

    with pytest.raises(InputError, match="prior of 'z' differs between data"):
        kl_decomposition(Pair(model, guide), torch.randn(4, 1).double(), torch.arange(4))
    assert kl_decomposition(Pair(make_m2().model, make_m2().guide), binary_images.double(), classes)


def test_a_flow_that_cannot_score_says_so_itself(make_vae, binary_images):
    vae = make_vae()
    flow = VAE(vae.prior, vae.likelihood, FlowPosterior(MLP((1, 4, 4), 6, hidden=(8,)), 2, Planar(2)))
    with pytest.raises(InputError, match=r"^the Planar flow has no inverse: [^\n]*$"):
        decompose(flow, binary_images, num_samples=2)


def test_settings_out_of_range_are_refused(make_vae, binary_images):
    vae = make_vae()
    with pytest.raises(InputError, match="num_samples is 0"):
        decompose(vae, binary_images, num_samples=0)


@pytest.mark.parametrize("num_data", [7, 300])
def test_a_program_for_one_number_of_data_is_decomposed(num_data):
    """A guide with a mean for each datum. The KL of each is known in closed form."""
    means = torch.linspace(-0.5, 0.5, num_data, dtype=torch.double)[:, None]
    pair = coded(lambda x, name: dist.Normal(0 * x + means, 0.5).to_event(1))
    exact = 0.5 * (0.25 + means.square() - 1 - math.log(0.25))
    result = decompose(pair, torch.zeros_like(means), num_samples=20)
    assert_within_errors(result, average_kl=exact.mean())


# What is handed on


def test_the_text_and_the_file_hold_the_figures(tmp_path):
    x = double([-1.0, 0.0], [1.0, 3.0])
    pair = coded(lambda x, name: dist.Normal(x, 0.5).to_event(1), names=("left", "right"))
    result = decompose(pair, x, num_samples=1)
    assert math.isnan(result.std_error["average_kl"])
    text = str(result)
    assert (
        f"averaged KL           = {result.average_kl:.3f} +- unknown nats per datum (N = 2, 1 draws each)"
        in text
    )
    assert "(at most log N = 0.693)" in text
    assert "left alone:\n  averaged KL" in text
    result.to_json(tmp_path / "kl.json")
    content = json.loads((tmp_path / "kl.json").read_text())
    assert content["mutual_information"] == result.mutual_information
    assert content["std_error"]["average_kl"] is None
    assert content["sites"]["right"]["marginal_kl"] == result.sites["right"].marginal_kl
    assert content["per_dimension"]["left"] == result.per_dimension["left"].tolist()
