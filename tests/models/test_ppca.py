"""Probabilistic PCA against what is known of it in closed form."""

import functools

import pyro
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.decomposition import PCA
from torch.distributions import MultivariateNormal, kl_divergence
from torch.optim.lr_scheduler import ExponentialLR

import pyrovae
from pyrovae.errors import InputError
from pyrovae.models import PPCA
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.programs.running import run_pair

pytestmark = pytest.mark.cpu

SHAPES = pytest.mark.parametrize(("latent_dim", "dimensions"), [(1, 4), (3, 7), (5, 5), (6, 4)])


def joint(ppca):
    """Mean and covariance of (z, x)."""
    w, m = ppca.weight.detach(), ppca.weight.shape[1]
    identity = torch.eye(m).double()
    noise = ppca.variance.detach() * torch.eye(len(w)).double()
    covariance = torch.cat([torch.cat([identity, w.T], 1), torch.cat([w, w @ w.T + noise], 1)])
    return torch.cat([torch.zeros(m).double(), ppca.mean.detach()]), covariance


def log_weights(ppca, x, draws):
    """log p(x, z) - log q(z | x), `(draws, N)`, by running the pair under a plate of draws."""
    with torch.no_grad(), pyro.plate("draws", draws, dim=-2):
        model_trace, guide_trace = run_pair(ppca, x)
    for trace in (model_trace, guide_trace):
        trace.compute_log_prob()
    p, q = model_trace.nodes, guide_trace.nodes
    return p["z"]["log_prob"] + p["x"]["log_prob"] - q["z"]["log_prob"]


@SHAPES
def test_the_evidence_is_the_density_of_the_dense_gaussian(make_ppca, draw, latent_dim, dimensions):
    ppca = make_ppca(latent_dim, dimensions)
    x = draw(ppca, 6)
    mean, covariance = joint(ppca)
    dense = MultivariateNormal(mean[latent_dim:], covariance[latent_dim:, latent_dim:])
    torch.testing.assert_close(ppca.log_evidence(x), dense.log_prob(x))


@SHAPES
def test_the_posterior_is_the_joint_gaussian_conditioned_on_x(make_ppca, draw, latent_dim, dimensions):
    ppca = make_ppca(latent_dim, dimensions)
    x = draw(ppca, 6)
    mean, covariance = joint(ppca)
    zz, zx = covariance[:latent_dim, :latent_dim], covariance[:latent_dim, latent_dim:]
    gain = zx @ torch.linalg.inv(covariance[latent_dim:, latent_dim:])
    posterior = ppca.exact_posterior(x)
    torch.testing.assert_close(posterior.mean, (x - mean[latent_dim:]) @ gain.T)
    torch.testing.assert_close(posterior.covariance_matrix, (zz - gain @ zx.T).expand(6, -1, -1))


def test_images_are_scored_like_the_vectors_that_they_are(make_ppca, draw):
    flat = make_ppca(2, 6)
    image = PPCA((1, 2, 3), 2).double()
    image.load_state_dict(flat.state_dict())
    x = draw(flat, 4)
    torch.testing.assert_close(image.log_evidence(x.view(4, 1, 2, 3)), flat.log_evidence(x))
    torch.testing.assert_close(image.exact_posterior(x.view(4, 1, 2, 3)).mean, flat.exact_posterior(x).mean)
    torch.manual_seed(0)
    weights = log_weights(flat, x, 3)
    torch.manual_seed(0)
    torch.testing.assert_close(log_weights(image, x.view(4, 1, 2, 3), 3), weights)


# The fit in closed form


@pytest.fixture
def fitted():
    x = torch.randn(80, 6).double() @ torch.randn(6, 6).double() + torch.randn(6).double()
    ppca = PPCA(6, 2).double()
    ppca.fit_closed_form(x)
    return ppca, x


def test_the_fit_is_tipping_and_bishops(fitted):
    ppca, x = fitted
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    variance = values[:4].mean()  # equation 8
    top = vectors[:, 4:] @ (values[4:] - variance).sqrt().diag()  # equation 7, with R = I
    torch.testing.assert_close(ppca.variance.detach(), variance)
    torch.testing.assert_close(ppca.weight.detach() @ ppca.weight.detach().T, top @ top.T)
    torch.testing.assert_close(ppca.mean.detach(), x.mean(0))
    # With R = I the columns of W are orthogonal, and the first is the longest.
    lengths = (ppca.weight.T @ ppca.weight).detach()
    torch.testing.assert_close(lengths, (values[4:].flip(0) - variance).diag())


def test_the_fit_is_a_stationary_point_of_the_exact_log_likelihood(fitted):
    ppca, x = fitted
    generative = (ppca.weight, ppca.mean, ppca.likelihood.log_scale)
    for gradient in torch.autograd.grad(ppca.log_evidence(x).mean(), generative):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-10, rtol=0)


@pytest.mark.parametrize("size", [1e-3, 1e-2, 0.1, 1.0])
@torch.no_grad()
def test_no_perturbation_beats_the_fit(fitted, size):
    ppca, x = fitted
    best = ppca.log_evidence(x).mean()
    start = {name: value.clone() for name, value in ppca.state_dict().items()}
    for _ in range(50):
        ppca.load_state_dict(start)
        for parameter in (ppca.weight, ppca.mean, ppca.likelihood.log_scale):
            parameter.add_(size * torch.randn_like(parameter))
        assert ppca.log_evidence(x).mean() < best


def test_the_fit_gives_the_guide_the_exact_posterior(fitted):
    ppca, x = fitted
    assert kl_divergence(ppca.posterior(x), ppca.exact_posterior(x)).abs().max() < 1e-12


@pytest.mark.parametrize("latent_dim", [5, 6, 8])
def test_a_fit_that_leaves_nothing_for_the_noise_is_refused(latent_dim):
    x = torch.randn(40, 5).double() @ torch.randn(5, 6).double()  # varies in 5 of 6 directions
    with pytest.raises(InputError, match=f"with {latent_dim} latent dimensions .* use fewer"):
        PPCA(6, latent_dim).double().fit_closed_form(x)


def test_another_posterior_cannot_be_set_to_the_exact_one_but_the_rest_can_be_fitted():
    ppca = PPCA(6, 2, DiagonalNormal(MLP(6, 4, hidden=()), 2)).double()
    guide = {name: value.clone() for name, value in ppca.posterior.state_dict().items()}
    x = torch.randn(40, 6).double()
    ppca.fit_closed_form(x)
    torch.testing.assert_close(ppca.mean.detach(), x.mean(0))
    assert all(torch.equal(value, guide[name]) for name, value in ppca.posterior.state_dict().items())
    with pytest.raises(InputError, match=r"DiagonalNormal .*exact posterior"):
        ppca.set_guide_to_exact_posterior()


# Columns of unlike units, in 32-bit


def of_scikit_learn(x, latent_dim):
    """The log density of each row under scikit-learn's fit, with the maximum-likelihood covariance.

    Scikit-learn divides the covariance by N - 1; the maximum of the likelihood divides it by N.
    """
    covariance = PCA(latent_dim, svd_solver="full").fit(x.numpy()).get_covariance() * (1 - 1 / len(x))
    return MultivariateNormal(x.mean(0), torch.as_tensor(covariance)).log_prob(x)


def of_the_dense_gaussian(ppca, x):
    """log N(x; mu, W W^T + sigma^2 I) of the parameters as they are, in 64-bit."""
    weight, mean = ppca.weight.detach().double(), ppca.mean.detach().double()
    noise = (2 * ppca.likelihood.log_scale.detach().double()).exp() * torch.eye(len(weight)).double()
    return MultivariateNormal(mean, weight @ weight.T + noise).log_prob(x.double())


def stretched(factor):
    """Eight correlated columns, of which the first is stretched."""
    x = torch.randn(200, 8).double() @ torch.randn(8, 8).double()
    x[:, 0] *= factor
    return x


UNLIKE = {
    "wine": lambda: (torch.as_tensor(load_wine().data), 10),
    "cancer": lambda: (torch.as_tensor(load_breast_cancer().data), 5),
    "cancer, 10 latents": lambda: (torch.as_tensor(load_breast_cancer().data), 10),
    "digits": lambda: (torch.as_tensor(load_digits().data), 10),
    "3,000 times": lambda: (stretched(3e3), 3),
    "100,000 times": lambda: (stretched(1e5), 3),
    "a large offset": lambda: (stretched(1.0) + 2000, 3),
}


@pytest.mark.parametrize("data", UNLIKE)
def test_in_32_bit_the_evidence_of_each_datum_is_exact_whatever_the_units(data):
    x, latent_dim = UNLIKE[data]()
    x = x.float()
    ppca = PPCA(x.shape[1], latent_dim)
    ppca.fit_closed_form(x)
    evidence = ppca.log_evidence(x).detach()
    torch.testing.assert_close(evidence, of_the_dense_gaussian(ppca, x), atol=1e-6, rtol=0)
    # The fit itself loses only the rounding of its parameters.
    torch.testing.assert_close(evidence, of_scikit_learn(x.double(), latent_dim), atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", [1e-3, 1e-5])
def test_in_32_bit_little_noise_costs_no_digits(scale):
    ppca = PPCA(6, 2)
    with torch.no_grad():
        ppca.weight.normal_()
        ppca.likelihood.log_scale.fill_(scale).log_()
        x = ppca.likelihood(torch.randn(5, 2)).sample()
    torch.testing.assert_close(
        ppca.log_evidence(x).detach(), of_the_dense_gaussian(ppca, x), atol=1e-4, rtol=0
    )


def test_in_32_bit_the_guide_is_the_exact_posterior_whatever_the_units():
    x = stretched(1e4).float()
    ppca = PPCA(8, 3)
    ppca.fit_closed_form(x)
    w = ppca.weight.detach().double()
    inner = w.T @ w + (2 * ppca.likelihood.log_scale.detach().double()).exp() * torch.eye(3).double()
    mean = (x.double() - ppca.mean.detach().double()) @ torch.linalg.solve(inner, w.T).T
    scale = (torch.linalg.inv(inner) * ppca.variance.detach().double()).diagonal().sqrt()
    for posterior in (ppca.posterior(x), ppca.exact_posterior(x)):
        assert posterior.mean.dtype == torch.float32
        assert ((posterior.mean - mean).abs() / scale).max() < 0.02
        torch.testing.assert_close(posterior.stddev[0].double(), scale, atol=0, rtol=1e-4)


@pytest.mark.parametrize("factor", [1.0, 1e5])
def test_in_32_bit_a_fit_that_leaves_nothing_but_rounding_is_refused(factor):
    x = torch.randn(40, 5) @ torch.randn(5, 6)  # varies in 5 of 6 directions
    x[:, 0] *= factor
    with pytest.raises(InputError, match=r"with 5 latent dimensions .* use fewer"):
        PPCA(6, 5).fit_closed_form(x)
    PPCA(6, 4).fit_closed_form(x)


# The bound


@SHAPES
def test_with_the_exact_guide_every_draw_gives_the_evidence(make_ppca, draw, latent_dim, dimensions):
    ppca = make_ppca(latent_dim, dimensions, spread=1.0)
    x = draw(ppca, 6)
    exact = ppca.log_evidence(x).expand(20, 6)
    torch.testing.assert_close(log_weights(ppca, x, 20), exact, atol=1e-6, rtol=0)


def test_with_a_guide_that_is_off_the_elbo_falls_short_by_its_kl(make_ppca, draw):
    ppca = make_ppca(3, 7, spread=2.0)
    x = draw(ppca, 8)
    kl = kl_divergence(ppca.posterior(x), ppca.exact_posterior(x))
    assert kl.min() > 0.1
    weights = log_weights(ppca, x, 4000)
    error = weights.std(0) / len(weights) ** 0.5
    assert ((weights.mean(0) + kl - ppca.log_evidence(x)).abs() < 4 * error).all()


def test_a_guide_fitted_by_stochastic_gradients_closes_the_gap(make_ppca, draw):
    ppca = make_ppca(2, 5)
    x = draw(ppca, 200)
    ppca.posterior = type(ppca.posterior)(5, 2).double()  # a fresh start
    ppca.likelihood.requires_grad_(False)
    before = {name: value.clone() for name, value in ppca.likelihood.state_dict().items()}
    assert kl_divergence(ppca.posterior(x), ppca.exact_posterior(x)).mean() > 0.5
    pyrovae.fit(
        ppca,
        x,
        epochs=120,
        batch_size=50,
        optimizer=functools.partial(torch.optim.Adam, lr=0.05),
        scheduler=functools.partial(ExponentialLR, gamma=0.95),
        progress=False,
    )
    # evidence - ELBO is this divergence, without the noise of an estimate.
    gap = kl_divergence(ppca.posterior(x), ppca.exact_posterior(x)).mean().item()
    assert gap < 1e-3
    weights = log_weights(ppca, x, 500).mean(1)
    error = weights.std().item() / len(weights) ** 0.5
    assert weights.mean().item() == pytest.approx(ppca.log_evidence(x).mean().item(), abs=1e-3 + 4 * error)
    assert all(torch.equal(value, before[name]) for name, value in ppca.likelihood.state_dict().items())


def test_fitting_everything_by_gradients_approaches_the_closed_form(fitted):
    best, x = fitted
    ppca = PPCA(6, 2).double()
    pyrovae.fit(
        ppca,
        x,
        epochs=300,
        batch_size=80,
        optimizer=functools.partial(torch.optim.Adam, lr=0.1),
        scheduler=functools.partial(ExponentialLR, gamma=0.985),
        progress=False,
    )
    short = best.log_evidence(x).mean() - ppca.log_evidence(x).mean()
    assert 0 <= short.item() < 0.02
