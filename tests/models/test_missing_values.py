"""The library's models where values are missing: what enters, and what must not."""

from functools import partial

import pyro
import pytest
import torch
from torch.distributions import MultivariateNormal

from pyrovae import fit
from pyrovae.errors import InputError
from pyrovae.generation import latent_means, reconstruct
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import CVAE, PPCA, VAE, HierarchicalVAE
from pyrovae.networks import MLP, Joined
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.programs import Pair
from pyrovae.programs.checks import check_pair
from pyrovae.programs.distributions import factors_of
from pyrovae.programs.running import run_pair

pytestmark = pytest.mark.cpu


def patterns(dimensions):
    """Every pattern of missing columns, from none to all, `(2^D, D)`."""
    numbers = torch.arange(2**dimensions).unsqueeze(1)
    return (numbers >> torch.arange(dimensions)) % 2 == 0


@pytest.fixture
def make_hierarchical():
    def make():
        return HierarchicalVAE(
            prior=StandardNormal(2),
            latent=DiagonalNormal(MLP(2, 6, hidden=(4,)), 2),
            likelihood=Bernoulli(Joined(MLP(2 + 2, (1, 4, 4), hidden=(4,)), None, None)),
            posterior2=DiagonalNormal(MLP((1, 4, 4), 6, hidden=(4,)), 2),
            posterior1=DiagonalNormal(Joined(MLP(6 + 2, 6), MLP((1, 4, 4), 6), None), 2),
        ).double()

    return make


@pytest.fixture(params=["vae", "hierarchical", "m2", "m1m2", "cpcvae", "constrained", "cvae", "ppca"])
def pair(request):
    if request.param == "ppca":
        return PPCA((1, 4, 4), 2).double()
    if request.param == "cvae":
        c = torch.randn(6, 2).double()
        cvae = CVAE(
            prior=DiagonalNormal(MLP(2, 6, hidden=(4,)), 2),
            likelihood=Bernoulli(Joined(MLP(2 + 2, (1, 4, 4), hidden=(4,)), None, None)),
            posterior=DiagonalNormal(Joined(MLP(6 + 2, 6), MLP((1, 4, 4), 6), None), 2),
        ).double()
        return Pair(partial(cvae.model, c=c), partial(cvae.guide, c=c))
    if request.param == "constrained":
        cpcvae = request.getfixturevalue("make_cpcvae")()
        return Pair(cpcvae.constrained_model, cpcvae.guide)
    found = request.getfixturevalue(f"make_{request.param}")()
    return found.double()


def densities(pair, x, observed):
    """Every site's value and log density of one seeded run."""
    pyro.set_rng_seed(0)
    with torch.no_grad():
        traces = run_pair(pair, x, observed=observed)
    for trace in traces:
        trace.compute_log_prob()
    return [trace.nodes for trace in traces]


def test_observed_values_alone_enter_and_any_value_may_stand_for_a_missing_one(pair, binary_images):
    x = binary_images[:6].double()
    observed = torch.rand(x.shape) < 0.6
    observed[0] = False
    runs = [
        densities(pair, x.where(observed, torch.tensor(missing).double()), observed)
        for missing in (0.0, 1.0, torch.nan, 1e30)
    ]
    model, _ = runs[0]
    univariate = factors_of(model["x"]["fn"]).base_dist.log_prob(x)
    torch.testing.assert_close(model["x"]["log_prob"], (univariate * observed).flatten(-3).sum(-1))
    for run in runs[1:]:
        for nodes, others in zip(runs[0], run, strict=True):
            for name, site in nodes.items():
                if site["type"] == "sample":
                    torch.testing.assert_close(site["log_prob"], others[name]["log_prob"], rtol=0, atol=0)
    check_pair_with(pair, x.where(observed, torch.nan), observed)


def check_pair_with(pair, x, observed):
    check_pair(
        Pair(lambda x: pair.model(x, observed=observed), lambda x: pair.guide(x, observed=observed)), x
    )


def test_pyros_own_inference_trains_on_data_with_nan(make_vae, param_store):
    vae = make_vae(x_shape=(3,))
    x = torch.ones(8, 3).masked_fill(torch.rand(8, 3) < 0.4, torch.nan)
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
    losses = [svi.step(x, observed=~x.isnan()) for _ in range(40)]
    assert losses[-1] < losses[0] / 3
    assert all(value.isfinite().all() for value in vae.parameters())


def test_a_likelihood_that_does_not_factorise_is_refused_by_name():
    class Correlated(torch.nn.Module):
        def forward(self, z):
            return pyro.distributions.MultivariateNormal(z, torch.eye(2))

    vae = VAE(StandardNormal(2), Correlated(), DiagonalNormal(MLP(2, 4), 2))
    with pytest.raises(InputError, match="a MultivariateNormal with event shape"):
        vae.model(torch.zeros(4, 2), observed=torch.ones(4, 2, dtype=torch.bool))


# Probabilistic PCA, for every pattern of missing columns


@pytest.mark.parametrize(("latent_dim", "dimensions"), [(1, 4), (3, 4), (5, 3)])
def test_ppca_is_exact_for_every_pattern_of_missing_columns(make_ppca, draw, latent_dim, dimensions):
    ppca = make_ppca(latent_dim, dimensions)
    observed = patterns(dimensions)
    x = draw(ppca, len(observed))
    evidence = ppca.log_evidence(x.where(observed, torch.nan), observed)
    posterior = ppca.exact_posterior(x.where(observed, torch.nan), observed)
    w, mean = ppca.weight.detach(), ppca.mean.detach()
    covariance = w @ w.T + ppca.variance.detach() * torch.eye(dimensions)
    for row, seen in enumerate(observed):
        gain = w[seen].T @ torch.linalg.inv(covariance[seen][:, seen])
        expected = gain @ (x[row] - mean)[seen]
        torch.testing.assert_close(posterior.mean[row], expected)
        expected = torch.eye(latent_dim).double() - gain @ w[seen]
        torch.testing.assert_close(posterior.covariance_matrix[row], expected)
        marginal = MultivariateNormal(mean[seen], covariance[seen][:, seen]) if seen.any() else None
        expected = marginal.log_prob(x[row, seen]) if marginal else torch.tensor(0.0).double()
        torch.testing.assert_close(evidence[row], expected)


def test_without_missing_values_the_mask_changes_nothing(make_ppca, draw):
    ppca = make_ppca()
    x = draw(ppca, 5)
    everything = torch.ones(5, 5, dtype=torch.bool)
    torch.testing.assert_close(ppca.log_evidence(x, everything), ppca.log_evidence(x))
    with_mask, without = ppca.exact_posterior(x, everything), ppca.exact_posterior(x)
    torch.testing.assert_close(with_mask.mean, without.mean)
    torch.testing.assert_close(with_mask.covariance_matrix, without.covariance_matrix)


def test_ppcas_guide_is_exact_under_missing_values(make_ppca, draw):
    """Every draw then has the weight p(x_observed), and the bound's gradient is that of the evidence."""
    ppca = make_ppca(spread=2.0)
    x = draw(ppca, 32).view(32, 5)
    observed = patterns(5)
    model_trace, guide_trace = run_pair(ppca, x.where(observed, torch.nan), observed=observed)
    for trace in (model_trace, guide_trace):
        trace.compute_log_prob()
    log_weights = (
        sum(model_trace.nodes[name]["log_prob"] for name in "xz") - guide_trace.nodes["z"]["log_prob"]
    )
    exact = ppca.log_evidence(x, observed)
    torch.testing.assert_close(log_weights, exact)
    generative = (ppca.weight, ppca.mean, ppca.likelihood.log_scale)
    gradients = [torch.autograd.grad(value.sum(), generative) for value in (log_weights, exact)]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


def test_another_posterior_of_ppca_sees_filled_data(draw, make_ppca):
    ppca = PPCA(5, 2, posterior=DiagonalNormal(MLP(5, 4), 2)).double()
    x = draw(make_ppca(), 3)
    observed = torch.tensor([[True, False, True, True, False]]).expand(3, -1)
    guide = pyro.poutine.trace(ppca.guide).get_trace(x, observed=observed)
    torch.testing.assert_close(guide.nodes["z"]["fn"].mean, ppca.posterior(x * observed).mean)


def test_codes_and_images_of_data_with_gaps(make_vae, binary_images):
    """Latent means are those of filled data, and a reconstruction is the image of these means."""
    vae = make_vae()
    observed = torch.rand(binary_images.shape) < 0.6
    x, given = binary_images.where(observed, torch.nan), {"observed": observed}
    with torch.no_grad():
        mean = vae.posterior(binary_images * observed).mean
        image = vae.likelihood(mean).mean
    torch.testing.assert_close(latent_means(vae, x, given=given), mean)
    torch.testing.assert_close(reconstruct(vae, x, given=given), image)
    with pytest.raises(InputError, match="not finite"):
        reconstruct(vae, x)


def test_starts_that_need_all_values_refuse_nan(make_vae, binary_images):
    x = binary_images.clone()
    x[3, 0, 0, 0] = torch.nan
    observed = ~x.isnan()
    likelihood = make_vae().likelihood
    with pytest.raises(InputError, match=r"not finite.* use the complete data, x\[observed"):
        likelihood.start_at_marginals(x)
    likelihood.start_at_marginals(x[observed.flatten(1).all(1)])
    ppca = PPCA((1, 4, 4), 2)
    with pytest.raises(InputError, match=r"closed form needs all values.* given=\{\"observed\": mask\}"):
        ppca.fit_closed_form(x)
    ppca.posterior.requires_grad_(False)
    fit(ppca, x, given={"observed": observed}, epochs=1, progress=False)
