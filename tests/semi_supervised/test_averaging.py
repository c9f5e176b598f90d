"""Held-out labels weigh the classifiers, as their probabilities say."""

import math

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import make_moons
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from pyrovae.semi_supervised import AveragedClassifier, LinearM2, SpreadLabels
from pyrovae.semi_supervised.averaging import FOLDS, PRIOR


@pytest.fixture
def clouds():
    """Two clouds: z (100, 2), and labels of 10 data of each class."""
    rng = np.random.default_rng(0)
    y = np.arange(100) % 2
    return rng.normal(size=(100, 2)) + 1.5 * y[:, None], np.where(np.arange(100) < 20, y, -1)


def test_the_weights_are_those_of_cross_validation_by_scikit_learn(clouds):
    z, y = clouds
    choice = AveragedClassifier(random_state=3).fit(z, y).choice_
    assert choice.num_labels == 20
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=3)
    p = cross_val_predict(LogisticRegression(C=0.3), z[:20], y[:20], cv=folds, method="predict_proba")
    log_p = np.log(0.999 * p[np.arange(20), y[:20]] + 0.001 / 2)
    assert choice.log_scores["logistic"] == pytest.approx(log_p.mean(), abs=1e-4)
    accuracy = balanced_accuracy_score(y[:20], p.argmax(1))
    assert choice.balanced_accuracies["logistic"] == pytest.approx(accuracy)
    by_hand = softmax([math.log(PRIOR[name]) + 20 * score for name, score in choice.log_scores.items()])
    np.testing.assert_allclose([*choice.weights.values()], by_hand, rtol=1e-9)


def test_labels_that_are_held_out_are_unlabelled_data_for_the_others(clouds):
    """By hand, with all of a fold's labels hidden, from classifiers that are fitted anew."""
    z, y = clouds
    choice = AveragedClassifier(random_state=0).fit(z, y).choice_
    for name, make in {"linear-m2": LinearM2, "label-spreading": SpreadLabels}.items():
        p = np.zeros((20, 2))
        for _, fold in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(z[:20], y[:20]):
            shown = y.copy()
            shown[fold] = -1
            fitted = make().fit(z, shown)
            p[fold] = fitted.spread(fold) if name == "label-spreading" else fitted.predict_proba(z[fold])
        log_p = np.log(0.999 * p[np.arange(20), y[:20]] + 0.001 / 2)
        assert choice.log_scores[name] == pytest.approx(log_p.mean(), abs=1e-9)


def test_the_average_is_that_of_the_weights(clouds):
    z, y = clouds
    fitted = AveragedClassifier().fit(z, y)
    parts = [fitted.choice_.weights[n] * c.predict_proba(z) for n, c in fitted.classifiers_.items()]
    np.testing.assert_allclose(fitted.predict_proba(z), sum(parts), atol=1e-12)
    np.testing.assert_allclose(fitted.predict_proba(z).sum(1), 1)


def test_the_data_choose():
    """Half circles that interleave are told apart by spreading; a slope without gaps by a line."""
    z, y = make_moons(400, noise=0.08, random_state=0)
    few = np.where(np.arange(400) < 60, y, -1)
    assert AveragedClassifier().fit(z, few).choice_.weights["label-spreading"] > 0.9
    z = np.random.default_rng(0).normal(size=(400, 10)) * np.linspace(1, 3, 10)
    few = np.where(np.arange(400) < 60, z[:, 0] > 0, -1).astype(int)
    assert AveragedClassifier().fit(z, few).choice_.weights["logistic"] > 0.9


def test_where_no_label_can_be_held_out_the_weights_are_the_prior(clouds):
    z, y = clouds
    fitted = AveragedClassifier().fit(z, np.where(np.arange(100) < 2, y, -1))
    assert fitted.choice_.num_labels == 0
    assert fitted.choice_.weights == pytest.approx(PRIOR)
    assert sum(PRIOR.values()) == pytest.approx(1)


def test_a_class_with_one_label_keeps_it(clouds):
    z, y = clouds
    few = np.where((np.arange(100) < 20) & ((y == 0) | (np.arange(100) == 1)), y, -1)
    fitted = AveragedClassifier().fit(z, few)
    assert fitted.choice_.num_labels == 10, "the ten of class 0"
    assert fitted.classes_.tolist() == [0, 1]


def test_weights_of_labels_are_repetitions_for_spreading_too(clouds):
    """Of F, which is linear in the labels, each class's column is multiplied by the labels' weight."""
    z, y = clouds
    one = SpreadLabels().fit(z, y)
    two = SpreadLabels().fit(z, y, np.where(y == 1, 2.0, 1.0))
    odds = [np.divide(*p.T) for p in (one.predict_proba(z), two.predict_proba(z))]
    np.testing.assert_allclose(odds[0], 4 * odds[1], rtol=1e-9)
