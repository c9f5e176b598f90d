"""The linear M2 is linear discriminant analysis if all labels are known, and otherwise a maximum."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from pyrovae.semi_supervised import LinearM2


@pytest.fixture
def clouds():
    """Three overlapping clouds of unequal size: z (120, 2), classes (120,)."""
    rng = np.random.default_rng(0)
    y = rng.choice(3, 120, p=[0.5, 0.3, 0.2])
    means = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.5]])
    return means[y] + rng.normal(size=(120, 2)) @ np.array([[1.0, 0.6], [0.0, 0.5]]), y


@pytest.fixture
def few(clouds):
    """The classes of every sixth datum, -1 for the others."""
    return np.where(np.arange(120) % 6 == 0, clouds[1], -1)


def test_with_all_labels_it_is_linear_discriminant_analysis(clouds):
    z, y = clouds
    fitted = LinearM2(prior_data=0).fit(z, y)
    known = LinearDiscriminantAnalysis(solver="lsqr").fit(z, y)
    np.testing.assert_allclose(fitted.means_, known.means_, rtol=1e-10)
    np.testing.assert_allclose(fitted.covariance_, known.covariance_, rtol=1e-10)
    np.testing.assert_allclose(fitted.predict_proba(z), known.predict_proba(z), atol=1e-8)


@pytest.mark.parametrize("learn_class_prior", [False, True])
def test_em_ends_where_the_posterior_density_is_greatest(learn_class_prior, clouds, few):
    """The gradient of log p(z, y of labelled data, z of others) + log p(S), by autograd, is 0 there."""
    z, weight = clouds[0], 1 + np.arange(120) % 2
    model = LinearM2(4.0, learn_class_prior=learn_class_prior, max_iter=5000, tol=1e-13)
    fitted = model.fit(z, few, weight)
    logits = torch.tensor(np.log(fitted.class_prior_), requires_grad=True)
    means = torch.tensor(fitted.means_, requires_grad=True)
    factor = torch.tensor(np.linalg.cholesky(fitted.covariance_), requires_grad=True)
    x, y, w = torch.tensor(z), torch.tensor(few), torch.tensor(weight)
    normal = torch.distributions.MultivariateNormal(means, scale_tril=factor)
    joint = logits.log_softmax(0) + normal.log_prob(x[:, None])
    known = y >= 0
    log_p = (w[known] * joint[known, y[known]]).sum() + (w[~known] * joint[~known].logsumexp(1)).sum()
    centred = z - np.average(z, axis=0, weights=weight)
    variance = np.average(centred**2, axis=0, weights=weight).mean()
    covariance = factor @ factor.T
    log_prior = -0.5 * 4.0 * (covariance.logdet() + variance * covariance.inverse().trace())
    wanted = [means, factor, *([logits] if learn_class_prior else [])]
    for gradient in torch.autograd.grad(log_p + log_prior, wanted):
        assert (gradient.tril() if gradient.dim() > 1 else gradient).abs().max() < 1e-9


def test_a_datum_of_weight_two_is_two_data(clouds, few):
    z, weight = clouds[0], 1 + np.arange(120) % 2
    weighted = LinearM2().fit(z, few, weight)
    repeated = LinearM2().fit(np.repeat(z, weight, axis=0), np.repeat(few, weight))
    np.testing.assert_allclose(weighted.predict_proba(z), repeated.predict_proba(z), atol=1e-10)


def test_the_class_prior_is_learned_from_unlabelled_data():
    """Of 4,000 data 10 % are of class 1, but of the labels half: z | y ~ N(4 y, 1)."""
    rng = np.random.default_rng(1)
    y = (np.arange(4000) % 10 == 0).astype(int)
    z = rng.normal(size=(4000, 1)) + 4 * y[:, None]
    few = np.full(4000, -1)
    for c in (0, 1):
        few[np.flatnonzero(y == c)[:10]] = c
    learned = LinearM2(learn_class_prior=True, max_iter=200).fit(z, few)
    assert learned.class_prior_[1] == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / 4000) ** 0.5)
    np.testing.assert_allclose(LinearM2().fit(z, few).class_prior_, 0.5)
