"""The default of the classifier: its units, its latents, its weights, and what it refuses."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_wine
from sklearn.utils.class_weight import compute_class_weight

from pyrovae import SemiSupervisedVAEClassifier
from pyrovae.errors import InputError
from pyrovae.models import PPCA
from pyrovae.sklearn.auto import own_units


@pytest.fixture(scope="module")
def wine():
    """X (178, 13) in raw units, its classes, and three labels of each class."""
    X, y = load_wine(return_X_y=True)
    few = np.full(len(y), -1)
    for c in range(3):
        few[np.random.default_rng(0).permutation(np.flatnonzero(y == c))[:3]] = c
    return X, y, few


@pytest.fixture(scope="module")
def fitted(wine):
    return SemiSupervisedVAEClassifier(random_state=0, device="cpu").fit(wine[0], wine[2])


def test_nine_labels_of_wine_in_raw_units_are_enough(fitted, wine):
    X, y, few = wine
    assert fitted.score(X, y) > 0.93
    assert (fitted.transduction_[few >= 0] == few[few >= 0]).all()


def test_it_says_what_was_chosen(fitted, wine):
    chosen = fitted.chosen_
    explained = np.cumsum(np.linalg.eigvalsh(np.corrcoef(wine[0].T))[::-1]) / 13
    assert chosen.latent_dim == np.flatnonzero(explained >= 0.95)[0] + 1 == 10
    lines = str(chosen).splitlines()
    assert lines[0] == "probabilistic PCA: 10 latents of 13 features"
    assert "9 labels" in lines[1]
    for line, (name, weight) in zip(lines[2:], chosen.classifiers.weights.items(), strict=True):
        assert line.split()[:2] == [name, f"{weight:.3f}"]
        assert "balanced accuracy" in line
    assert (fitted.history_, fitted.n_iter_) == (None, 0)


def test_an_int_as_random_state_repeats_the_choice(fitted, wine):
    X, _, few = wine
    again = clone(fitted).fit(X, few)
    assert again.chosen_ == fitted.chosen_
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    other = clone(fitted).set_params(random_state=1).fit(X, few)
    assert other.chosen_.classifiers != fitted.chosen_.classifiers, "the labels are divided otherwise"
    stored = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(stored.predict_proba(X), fitted.predict_proba(X))
    assert stored.chosen_ == fitted.chosen_


def test_the_classifier_takes_latents_in_the_decoders_scale(fitted, wine):
    X = wine[0]
    z = fitted.transform(X) * fitted.latent_scales_
    np.testing.assert_allclose(
        fitted.latent_scales_, fitted.model_.weight.norm(dim=0).detach(), rtol=1e-4, atol=1e-4
    )
    assert (fitted.classifier_.predict(z) == fitted.predict(X)).all()


def test_units_of_measurement_do_not_matter(fitted, wine):
    X, _, few = wine
    in_other_units = X * np.logspace(-3, 3, 13) + 5
    other = clone(fitted).fit(in_other_units, few)
    np.testing.assert_allclose(other.predict_proba(in_other_units), fitted.predict_proba(X), atol=1e-3)


def test_each_kind_of_feature_keeps_its_units():
    X, _ = load_digits(return_X_y=True)
    of_pixels = own_units(X, (64,)).scale
    grey = (X > 1).any(0)  # the others are constant, or hold 0 and 1 only
    np.testing.assert_allclose(of_pixels, np.where(grey, np.sqrt(X.var(0)[grey].mean()), 1))
    np.testing.assert_allclose(own_units(X, (1, 8, 8)).scale, np.full(64, X.std()))
    dark, numbers = X[:, 20] > 8, X[:, 21:23] * [1000, 1]
    table = np.column_stack([dark, ~dark, numbers])
    np.testing.assert_allclose(own_units(table, (4,)).scale, [1, 1, *table[:, 2:].std(0)])


def test_all_directions_may_be_latents_if_the_noise_has_a_floor():
    """The density is then that of a Gaussian with the covariance of the data."""
    x = torch.randn(50, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64)
    ppca = PPCA(3, latent_dim=3).double()
    with pytest.raises(InputError, match=r"3 latent dimensions.*fewer"):
        ppca.fit_closed_form(x)
    ppca.fit_closed_form(x, noise_floor=0.01)
    full = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T, correction=0))
    torch.testing.assert_close(ppca.log_evidence(x).detach(), full.log_prob(x))


def test_a_table_of_one_feature_is_classified():
    X = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.3]])
    y = np.array([0, 0, -1, 1, 1, -1])
    assert SemiSupervisedVAEClassifier(random_state=0).fit(X, y).predict(X).tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("model", ["auto", "m1"])
def test_balanced_classes_are_the_weights_of_their_labels(model, wine):
    X, y, few = wine
    few = few.copy()
    few[np.flatnonzero(y == 1)[:20]] = 1
    weight = np.ones(len(y))
    labelled = few >= 0
    of_class = compute_class_weight("balanced", classes=np.arange(3), y=few[labelled])
    weight[labelled] = of_class[few[labelled]]
    options = {"m1_classifier": "logistic", "epochs": 1} if model == "m1" else {}
    make = SemiSupervisedVAEClassifier(model, random_state=0, device="cpu", **options)
    balanced = clone(make).set_params(class_weight="balanced").fit(X, few)
    by_class = dict(zip(few[labelled].tolist(), weight[labelled].tolist(), strict=True))
    same = clone(make).set_params(class_weight=by_class).fit(X, few)
    np.testing.assert_array_equal(balanced.predict_proba(X), same.predict_proba(X))
    plain = clone(make).fit(X, few)
    if model == "auto":
        expected = clone(plain.classifier_).fit(plain.transform(X) * plain.latent_scales_, few, weight)
        z = balanced.transform(X) * balanced.latent_scales_
        np.testing.assert_allclose(expected.predict_proba(z), balanced.predict_proba(X), atol=1e-6)
    assert balanced.predict_proba(X)[:, 1].mean() < plain.predict_proba(X)[:, 1].mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 5}, "epochs is 5.*'auto' has no option epochs"),
        ({"likelihood": "bernoulli"}, "likelihood is 'bernoulli'.*Gaussian"),
        ({"latent_dim": 14}, "14 latent dimensions.*fewer"),
        ({"neighbours": 0}, "neighbours is 0.*at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(options, message, wine):
    with pytest.raises(InputError, match=message):
        SemiSupervisedVAEClassifier(**options).fit(wine[0], wine[2])


def test_it_generates_data_without_classes(fitted):
    assert fitted.sample(3).shape == (3, 13)
    with pytest.raises(InputError, match="'auto' generates data without classes"):
        fitted.sample(3, y=1)
