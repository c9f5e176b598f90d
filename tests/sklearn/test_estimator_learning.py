"""Every model learns from few labels, repeats itself, and is the program that it says it is."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from pyrovae import SemiSupervisedVAEClassifier
from pyrovae.errors import InputError
from pyrovae.generation import latent_means
from pyrovae.semi_supervised import M1_CLASSIFIERS
from pyrovae.sklearn.parameters import recipes_with_classes

TRAINED = [name for name in recipes_with_classes() if name != "auto"]


@pytest.mark.parametrize("model", TRAINED)
def test_every_model_learns_from_few_labels(model, learned, blobs):
    X, y = blobs
    fitted = learned(model)
    assert fitted.score(X, y) > 0.95
    assert (fitted.transduction_ == y).mean() > 0.95
    assert fitted.classes_.tolist() == [0, 1, 2]
    assert fitted.transform(X).shape == (90, 2)
    assert fitted.n_iter_ == len(fitted.history_.rows) == 30
    probabilities = fitted.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert (fitted.classes_[probabilities.argmax(1)] == fitted.predict(X)).all()


@pytest.mark.parametrize("model", ["m2", "m1m2", "pcvae", "cpcvae"])
def test_given_labels_alone_may_be_learned_and_all_may_be_given(model, learner, blobs, few):
    X, y = blobs
    assert learner(model, spread=False, epochs=20).fit(X, few).score(X, y) > 0.9
    supervised = learner(model, vae_epochs=5, epochs=10).fit(X, y)
    assert supervised.score(X, y) > 0.95
    assert (supervised.transduction_ == y).all()


def test_on_digits_it_is_better_than_logistic_regression():
    X, y = load_digits(return_X_y=True)
    X, rng = X / 16, np.random.default_rng(0)
    given = np.concatenate([rng.permutation(np.flatnonzero(y == c))[:10] for c in range(10)])
    labels = np.full(len(y), -1)
    labels[given] = y[given]
    hidden = labels == -1
    fitted = SemiSupervisedVAEClassifier("pcvae", epochs=10, vae_epochs=20, random_state=0).fit(X, labels)
    straight = LogisticRegression(max_iter=1000).fit(X[given], y[given])
    assert fitted.score(X[hidden], y[hidden]) > 0.91
    assert fitted.score(X[hidden], y[hidden]) > straight.score(X[hidden], y[hidden]) + 0.01


@pytest.mark.parametrize("name", M1_CLASSIFIERS)
def test_m1_has_scikit_learns_classifiers(name, learner, blobs, few):
    X, y = blobs
    fitted = learner("m1", m1_classifier=name, epochs=15).fit(X, few)
    assert fitted.score(X, y) > 0.9
    assert hasattr(fitted, "predict_proba") == hasattr(M1_CLASSIFIERS[name](), "predict_proba")
    z = fitted.transform(X) * fitted.latent_scales_
    assert (fitted.classifier_.predict(z) == fitted.predict(X)).all()


def test_where_no_label_has_spread_to_all_classes_are_as_probable(quick, blobs):
    X, _ = blobs
    labels = np.where(np.arange(90) < 2, [0, 1] * 45, -1)
    fitted = quick("m1", neighbours=3).fit(X, labels)
    fitted.classifier_.spreading_.label_distributions_[:] = 0
    np.testing.assert_array_equal(fitted.predict_proba(X), np.full((90, 2), 0.5, np.float32))


def test_fit_repeats_itself_and_leaves_random_states_alone(quick, blobs, few):
    X, _ = blobs
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    for model, options in (("m2", {}), ("m1", {"m1_classifier": "linear-svm"})):
        first, second = (quick(model, **options).fit(X, few) for _ in range(2))
        np.testing.assert_array_equal(first.transform(X), second.transform(X))
        np.testing.assert_array_equal(first.sample(5), second.sample(5))
        np.testing.assert_array_equal(first.predict(X), second.predict(X))
    other = quick("m1", random_state=1).fit(X, few)
    assert not np.array_equal(other.transform(X), first.transform(X))
    assert (np.random.get_state()[1] == states[0]).all()
    assert torch.equal(torch.get_rng_state(), states[1])


def test_the_latents_are_those_of_the_programs(quick, blobs, few):
    X, _ = blobs
    fitted = quick("pcvae").fit(X, few)
    x = torch.as_tensor(X).float()  # the model standardises vectors itself
    torch.testing.assert_close(
        torch.as_tensor(fitted.transform(X)), latent_means(fitted.model_, x), rtol=1e-4, atol=1e-4
    )


def test_a_class_without_a_label_is_not_known(quick, blobs):
    X, y = blobs
    fitted = quick().fit(X, np.where((y < 2) & (np.arange(90) % 3 == 0), y, -1))
    assert fitted.classes_.tolist() == [0, 1]
    assert fitted.score(X, y) < 0.7, "all data of the third are taken for others"


def test_unlabelled_data_have_no_part_in_the_score(quick, blobs, few):
    X, y = blobs
    fitted = quick().fit(X, few)
    known, weights = few != -1, np.arange(90.0)
    assert fitted.score(X, few) == fitted.score(X[known], y[known])
    right = fitted.predict(X[known]) == y[known]
    assert fitted.score(X, few, weights) == pytest.approx(np.average(right, weights=weights[known]))
    with pytest.raises(InputError, match="no datum of y is labelled"):
        fitted.score(X, np.full(90, -1))
    with pytest.raises(ValueError, match=r"sample_weight.shape == \(3,\)"):
        fitted.score(X, few, weights[:3])


@pytest.mark.parametrize("model", ["m1", "m2", "m1m2", "pcvae", "cpcvae"])
def test_data_of_weight_0_are_as_if_they_were_not_there(model, quick, blobs, few):
    X, y = blobs
    weight = np.where(np.arange(90) % 3 == 0, 0.0, 2.0)
    weighted = quick(model).fit(X, few, sample_weight=weight)
    fewer = quick(model).fit(X[weight > 0], few[weight > 0])
    np.testing.assert_allclose(weighted.predict_proba(X), fewer.predict_proba(X), rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(weighted.transduction_[weight > 0], fewer.transduction_)
    assert weighted.transduction_.shape == (90,)
    of_two = quick(model).fit(X, few, sample_weight=np.where(few == 2, 0.0, 1.0))
    assert of_two.classes_.tolist() == [0, 1]


def test_labels_count_by_their_weights(learner, blobs):
    """A third of the labels are wrong, and weigh a hundredth: the classifier learns the others."""
    X, y = blobs
    wrong = np.arange(90) % 3 == 0
    labels = np.where(wrong, (y + 1) % 3, y)
    fitted = learner("pcvae").fit(X, labels, sample_weight=np.where(wrong, 0.01, 1.0))
    assert fitted.score(X, y) > 0.95
