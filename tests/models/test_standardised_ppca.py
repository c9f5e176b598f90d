"""PPCA of standardised data against the dense Gaussian of the unstandardised data, and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch.distributions import MultivariateNormal, kl_divergence

from pyrovae.evaluation import impute, marginal_likelihood
from pyrovae.models import PPCA
from pyrovae.networks import Standardisation

pytestmark = pytest.mark.cpu

DATA = {"wine": load_wine, "cancer": load_breast_cancer}


def fitted(x, latent_dim):
    ppca = PPCA(x.shape[1], latent_dim, standardisation=Standardisation(x.shape[1])).to(x.dtype)
    ppca.fit_closed_form(x)
    return ppca


def dense(ppca):
    """N(m + S mu, S (W W^T + sigma^2 I) S), in 64-bit, computed from the parameters as they are."""
    shift, scale = (getattr(ppca.standardisation, name).double() for name in ("shift", "scale"))
    weight, mean = ppca.weight.detach().double(), ppca.mean.detach().double()
    noise = (2 * ppca.likelihood.log_scale.detach().double()).exp() * torch.eye(len(weight)).double()
    covariance = scale.diag() @ (weight @ weight.T + noise) @ scale.diag()
    return MultivariateNormal(shift + scale * mean, covariance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", DATA)
def test_the_evidence_is_the_density_of_the_unstandardised_data(name, dtype):
    x = torch.as_tensor(DATA[name]().data).to(dtype)
    ppca = fitted(x, 5)
    evidence = ppca.log_evidence(x).detach()
    torch.testing.assert_close(evidence, dense(ppca).log_prob(x.double()), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", DATA)
def test_the_fit_is_scikit_learns_on_the_standardised_columns(name):
    x = DATA[name]().data
    columns = StandardScaler().fit(x)
    z = columns.transform(x)
    # Scikit-learn divides the covariance by N - 1; the maximum of the likelihood divides it by N.
    covariance = PCA(3, svd_solver="full").fit(z).get_covariance() * (1 - 1 / len(z))
    expected = MultivariateNormal(torch.zeros(z.shape[1]).double(), torch.as_tensor(covariance))
    expected = expected.log_prob(torch.as_tensor(z)) - np.log(columns.scale_).sum()
    found = fitted(torch.as_tensor(x).float(), 3).log_evidence(torch.as_tensor(x).float()).detach()
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("factor", [1e-5, 3e3, 1e5])
def test_a_column_of_another_unit_changes_nothing_but_the_unit(factor):
    x = torch.randn(200, 8) @ torch.randn(8, 8)
    other = torch.cat([x[:, :1] * factor, x[:, 1:]], 1)
    before, after = fitted(x, 3), fitted(other, 3)
    expected = before.log_evidence(x) - math.log(factor)
    torch.testing.assert_close(after.log_evidence(other), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(
        after.posterior(other).mean.abs(), before.posterior(x).mean.abs(), atol=1e-3, rtol=0
    )


def test_the_guide_is_the_exact_posterior_and_draws_agree_with_the_evidence():
    x = torch.as_tensor(load_wine().data)
    ppca = fitted(x, 3)
    assert kl_divergence(ppca.posterior(x), ppca.exact_posterior(x)).abs().max() < 1e-9
    estimate = marginal_likelihood(ppca, x[:20], num_samples=5)
    torch.testing.assert_close(estimate.log_px, ppca.log_evidence(x[:20]).detach(), atol=1e-6, rtol=0)


def test_with_missing_values_the_evidence_is_that_of_the_observed_columns():
    x = torch.as_tensor(load_wine().data)
    ppca = fitted(x, 3)
    joint = dense(ppca)
    observed = torch.rand(6, 13) < 0.6
    seen = x[:6].where(observed, torch.nan)
    for row, mask, found in zip(x[:6], observed, ppca.log_evidence(seen, observed), strict=True):
        part = MultivariateNormal(joint.loc[mask], joint.covariance_matrix[mask][:, mask])
        torch.testing.assert_close(found, part.log_prob(row[mask]))
    # The exact posterior is the guide, so every draw of it gives the evidence.
    estimate = marginal_likelihood(ppca, seen, given={"observed": observed}, num_samples=3)
    torch.testing.assert_close(
        estimate.log_px, ppca.log_evidence(seen, observed).detach(), atol=1e-6, rtol=0
    )


def test_imputed_values_are_the_conditional_means_in_the_units_of_the_data():
    x = torch.as_tensor(load_wine().data)
    ppca = fitted(x, 3)
    joint, observed = dense(ppca), torch.ones(4, 13, dtype=torch.bool)
    observed[:, 12] = False  # proline, from 278 to 1680
    result = impute(ppca, x[:4], observed, num_samples=4000)
    covariance = joint.covariance_matrix
    gain = covariance[12, :12] @ torch.linalg.inv(covariance[:12, :12])
    expected = joint.loc[12] + (x[:4, :12] - joint.loc[:12]) @ gain
    assert ((result.x[:, 12] - expected).abs() < 5 * result.std_error[:, 12]).all()
