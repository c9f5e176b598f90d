"""The scikit-learn face: its conventions by scikit-learn's own checks, labels and features of any kind."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import pyrovae
from pyrovae import SemiSupervisedVAEClassifier
from pyrovae.errors import InputError
from pyrovae.generation import latent_means
from pyrovae.semi_supervised import M1_CLASSIFIERS
from pyrovae.sklearn.estimator import MODELS

SMALL = {"latent_dim": 2, "width": 16, "batch_size": 50, "learning_rate": 0.01, "device": "cpu"}
NOT_CHECKED = {
    "check_classifiers_classes": "takes -1 for a class; here it stands for unlabelled, as in "
    "sklearn.semi_supervised, whose classifiers scikit-learn excepts by name",
}


def quick(model="pcvae", **options):
    return SemiSupervisedVAEClassifier(
        model, **({"epochs": 2, "vae_epochs": 2, "random_state": 0} | SMALL | options)
    )


@pytest.fixture
def blobs():
    """Three clouds in four dimensions, in units of their own: X (90, 4), y (90,)."""
    X, y = make_blobs(90, 4, centers=3, cluster_std=0.5, random_state=0)
    return X * 10 + 100, y


@pytest.fixture
def few(blobs):
    """The classes of every fifth datum, -1 for the others."""
    return np.where(np.arange(90) % 5 == 0, blobs[1], -1)


def learner(model, **options):
    return quick(model, **({"epochs": 30, "vae_epochs": 30, "neighbours": 10} | options))


@parametrize_with_checks(
    [
        SemiSupervisedVAEClassifier("m2", epochs=6, vae_epochs=1, **SMALL),
        SemiSupervisedVAEClassifier("m1", m1_classifier="rbf-svm", vae_epochs=8, **SMALL),
    ],
    expected_failed_checks=lambda estimator: NOT_CHECKED,
)
def test_it_keeps_scikit_learns_rules(estimator, check):
    check(estimator)


# Learning


@pytest.mark.parametrize("model", MODELS)
def test_every_model_learns_from_few_labels(model, blobs, few):
    X, y = blobs
    fitted = learner(model).fit(X, few)
    assert fitted.score(X, y) > 0.95
    assert (fitted.transduction_ == y).mean() > 0.95
    assert fitted.classes_.tolist() == [0, 1, 2]
    assert fitted.transform(X).shape == (90, 2)
    assert fitted.n_iter_ == len(fitted.history_.rows) == 30
    probabilities = fitted.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert (fitted.classes_[probabilities.argmax(1)] == fitted.predict(X)).all()


@pytest.mark.parametrize("model", ["m2", "m1m2", "pcvae", "cpcvae"])
def test_given_labels_alone_may_be_learned_and_all_may_be_given(model, blobs, few):
    X, y = blobs
    assert learner(model, spread_labels=False, epochs=40).fit(X, few).score(X, y) > 0.9
    supervised = learner(model, vae_epochs=10).fit(X, y)
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
def test_m1_has_scikit_learns_classifiers(name, blobs, few):
    X, y = blobs
    fitted = learner("m1", m1_classifier=name).fit(X, few)
    assert fitted.score(X, y) > 0.9
    assert hasattr(fitted, "predict_proba") == (name in ("logistic", "label-spreading"))
    z = torch.as_tensor(fitted.transform(X)).numpy()
    assert (fitted.classifier_.predict(z) == fitted.predict(X)).all()


def test_where_no_label_has_spread_to_all_classes_are_as_probable(blobs):
    X, y = blobs
    labels = np.where(np.arange(90) < 2, [0, 1] * 45, -1)
    fitted = quick("m1", neighbours=3).fit(X, labels)
    fitted.classifier_.label_distributions_[:] = 0
    np.testing.assert_array_equal(fitted.predict_proba(X), np.full((90, 2), 0.5, np.float32))


def test_fit_repeats_itself_and_leaves_random_states_alone(blobs, few):
    X, _ = blobs
    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    for model, classifier in (("m2", "logistic"), ("m1", "linear-svm")):
        first, second = (quick(model, m1_classifier=classifier).fit(X, few) for _ in range(2))
        np.testing.assert_array_equal(first.transform(X), second.transform(X))
        np.testing.assert_array_equal(first.sample(5), second.sample(5))
        np.testing.assert_array_equal(first.predict(X), second.predict(X))
    other = quick("m1", random_state=1).fit(X, few)
    assert not np.array_equal(other.transform(X), first.transform(X))
    assert (np.random.get_state()[1] == states[0]).all()
    assert torch.equal(torch.get_rng_state(), states[1])


def test_the_latents_are_those_of_the_programs(blobs, few):
    X, _ = blobs
    fitted = quick("pcvae").fit(X, few)
    x = torch.as_tensor((X - X.mean(0)) / X.std(0)).float()
    torch.testing.assert_close(
        torch.as_tensor(fitted.transform(X)), latent_means(fitted.model_, x), rtol=1e-4, atol=1e-4
    )


# Labels


@pytest.mark.parametrize(
    "kind",
    ["strings", "objects with -1", "objects with '-1'", "None", "NaN", "list", "series", "nullable"],
)
def test_labels_of_any_kind_give_the_same_classifier(kind, blobs, few):
    X, _ = blobs
    names = np.array(["ape", "bee", "cow"])
    named = [names[c] if c >= 0 else None for c in few]
    labels = {
        "strings": np.array(["-1" if name is None else name for name in named]),
        "objects with -1": np.array([-1 if name is None else name for name in named], dtype=object),
        "objects with '-1'": np.array(["-1" if name is None else name for name in named], dtype=object),
        "None": np.array(named, dtype=object),
        "NaN": np.array([np.nan if name is None else name for name in named], dtype=object),
        "list": [-1 if name is None else name for name in named],
        "series": pd.Series(named),
        "nullable": pd.Series(named, dtype="string"),
    }[kind]
    fitted = quick().fit(X, labels)
    assert fitted.classes_.tolist() == ["ape", "bee", "cow"]
    expected = quick().fit(X, few)
    np.testing.assert_array_equal(fitted.predict(X), names[expected.predict(X)])
    np.testing.assert_array_equal(fitted.predict_proba(X), expected.predict_proba(X))
    assert fitted.score(X, labels) == expected.score(X, few)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([5, 1000, -1, 5], [5, 1000]),
        ([-3, 2, -1, -1], [-3, 2]),
        ([0.0, np.nan, -1.0, 1.0], [0, 1]),
        ([0, None, 1, -1], [0, 1]),
        ([True, False, -1, None], [False, True]),
        (pd.Series([1, None, 2, 1], dtype="Int64"), [1, 2]),
        (np.array(["-1", "1", "2", "1"]), ["1", "2"]),
    ],
)
def test_all_but_unlabelled_are_classes(labels, classes, blobs):
    fitted = quick(epochs=1, vae_epochs=1).fit(blobs[0][:4], labels)
    assert fitted.classes_.tolist() == classes
    assert set(fitted.transduction_) <= set(classes)
    assert set(fitted.predict(blobs[0])) <= set(classes)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(90, -1), "all 90 data are unlabelled"),
        ([None] * 90, "all 90 data are unlabelled"),
        (np.arange(89) % 2, "X has 90 data and y has 89 labels"),
        (np.where(np.arange(90) < 5, 7, -1), "y has 1 class only, 7"),
        (["a", 1] * 45, "some labels in y are strings and some are not"),
        (np.linspace(0, 1, 90), "Unknown label type: continuous"),
        (np.where(np.arange(90) < 5, np.inf, 1.0), "infinite labels"),
        (None, "requires y to be passed"),
        (np.zeros((90, 2)), "y should be a 1d array"),
    ],
)
def test_labels_that_cannot_be_are_refused(labels, message, blobs):
    with pytest.raises(ValueError, match=message):
        quick().fit(blobs[0], labels)


def test_a_class_without_a_label_is_not_known(blobs):
    X, y = blobs
    fitted = quick().fit(X, np.where((y < 2) & (np.arange(90) % 3 == 0), y, -1))
    assert fitted.classes_.tolist() == [0, 1]
    assert fitted.score(X, y) < 0.7, "all data of the third are taken for others"


def test_unlabelled_data_have_no_part_in_the_score(blobs, few):
    X, y = blobs
    fitted = quick().fit(X, few)
    known, weights = few != -1, np.arange(90.0)
    assert fitted.score(X, few) == fitted.score(X[known], y[known])
    right = fitted.predict(X[known]) == y[known]
    assert fitted.score(X, few, weights) == pytest.approx(np.average(right, weights=weights[known]))
    with pytest.raises(InputError, match="no datum of y is labelled"):
        fitted.score(X, np.full(90, -1))


# Features


@pytest.fixture
def images():
    """X (40, 64) in [0, 1] and classes."""
    X, y = load_digits(n_class=2, return_X_y=True)
    return X[:40] / 16, y[:40]


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_images_are_flat_or_not(network, images):
    X, y = images
    flat = quick(network=network, image_shape=(1, 8, 8)).fit(X, y)
    shaped = quick(network=network).fit(X.reshape(-1, 1, 8, 8), y)
    np.testing.assert_array_equal(flat.predict_proba(X), shaped.predict_proba(X.reshape(-1, 1, 8, 8)))
    np.testing.assert_array_equal(flat.predict_proba(X.reshape(-1, 1, 8, 8)), shaped.predict_proba(X))
    assert flat.n_features_in_ == shaped.n_features_in_ == 64
    assert flat.sample(3).shape == (3, 64)
    assert shaped.sample(3).shape == (3, 1, 8, 8)
    with pytest.raises(
        InputError, match=r"a datum of X has shape \(1, 4, 16\); it was fitted to \(1, 8, 8\)"
    ):
        shaped.predict(X.reshape(-1, 1, 4, 16))


@pytest.mark.parametrize(
    ("likelihood", "expected"),
    [
        ("auto", "Bernoulli"),
        ("gaussian", "Gaussian"),
        ("continuous-bernoulli", "ContinuousBernoulli"),
        ("categorical", "Categorical"),
    ],
)
def test_samples_are_in_the_units_of_the_data(likelihood, expected, images):
    X, y = images
    fitted = quick(likelihood=likelihood).fit(X, y)
    assert type(fitted.model_.likelihood).__name__ == expected
    mean = fitted.sample(200).mean(0)
    assert np.abs(mean - X.mean(0)).mean() < 0.1
    assert np.corrcoef(mean, X.mean(0))[0, 1] > 0.9


def test_units_of_features_do_not_matter(blobs, few):
    X, _ = blobs
    units = np.array([1e-6, 1.0, 1e6, 1e9])
    own, other = quick().fit(X, few), quick().fit(X * units + units, few)
    assert type(own.model_.likelihood).__name__ == "Gaussian"
    np.testing.assert_allclose(own.predict_proba(X), other.predict_proba(X * units + units), rtol=1e-3)
    np.testing.assert_allclose(own.sample(5) * units + units, other.sample(5), rtol=1e-3)


def test_colours_are_standardised_by_channel(images):
    X, y = images
    X = X.reshape(-1, 1, 8, 8) * [[[200.0]], [[2.0]]] + [[[0.0]], [[50.0]]]
    fitted = quick(network="conv").fit(X, y)
    x = fitted._events(fitted._validated(X))
    assert x.shape == (40, 2, 8, 8)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-5, rtol=0)
    assert np.abs(fitted.sample(100).mean((0, 2, 3)) - X.mean((0, 2, 3))).max() < 20


@pytest.mark.parametrize(("model", "right"), [("m2", 0.95), ("m1m2", 0.95), ("pcvae", 0.6)])
def test_samples_are_of_the_class_that_is_asked_for(model, right, blobs, few):
    """Of a PC-VAE, they are as pure as its p(y | z) is sharp where p(z) has its mass."""
    X, y = blobs
    names = np.array(["ape", "bee", "cow"])
    fitted = learner(model, epochs=60, batch_size=20).fit(X, np.where(few < 0, "-1", names[few]))
    centres = np.array([X[y == c].mean(0) for c in range(3)])
    asked = names[np.arange(99) % 3]
    made = fitted.sample(99, y=asked)
    nearest = names[((made[:, None] - centres) ** 2).sum(-1).argmin(1)]
    assert (nearest == asked).mean() > right
    assert fitted.sample(4, y="bee").shape == (4, 4)
    assert not np.array_equal(fitted.sample(4, random_state=1), fitted.sample(4, random_state=2))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("m2", {"y": 3}, r"class 3 is not known; there are \[0, 1, 2\]"),
        ("m2", {"y": -1}, "class -1 is not known"),
        ("m2", {"y": [0, 1]}, "y has shape .2,.: give one class, or 4, one for each"),
        ("m2", {"n_samples": 0}, "count is 0"),
        ("m1", {"y": 0}, "an m1 makes data without regard to class"),
    ],
)
def test_samples_that_cannot_be_are_refused(model, options, message, blobs, few):
    fitted = quick(model, epochs=1, vae_epochs=1).fit(blobs[0], few)
    with pytest.raises(InputError, match=message):
        fitted.sample(**({"n_samples": 4} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "m3"}, "unknown model 'm3'; there are m1, m2, m1m2, pcvae, cpcvae"),
        ({"model": "vae"}, "unknown model 'vae'"),
        ({"m1_classifier": "svm"}, "unknown M1 classifier 'svm'"),
        ({"likelihood": "normal"}, "unknown likelihood 'normal'; there are auto, bernoulli"),
        ({"likelihood": "bernoulli"}, "expected .0, 1"),
        ({"network": "conv"}, "a convolutional network needs images of shape .C, H, W."),
        ({"image_shape": (1, 2, 3)}, r"image_shape is \(1, 2, 3\), but a datum of X has shape \(4,\)"),
        ({"epochs": 0}, "epochs is 0; it must be a whole number"),
        ({"latent_dim": 0}, "latent_dim is 0"),
        ({"neighbours": 0}, "neighbours is 0; it must be at least 1"),
        ({"alpha": -1.0}, "alpha is -1.0; it must be at least 0"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
    ],
)
def test_parameters_that_cannot_be_are_refused(options, message, blobs, few):
    with pytest.raises(InputError, match=message):
        quick(**options).fit(blobs[0], few)


# Among other estimators


@pytest.mark.parametrize("model", MODELS)
def test_it_can_be_pickled_and_cloned(model, blobs, few):
    X, _ = blobs
    fitted = quick(model).fit(X, few)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    np.testing.assert_array_equal(again.sample(3), fitted.sample(3))
    fresh = clone(fitted).set_params(width=8)
    assert fresh.get_params() == fitted.get_params() | {"width": 8}
    assert not hasattr(fresh, "model_")
    fresh.fit(X, few)


def test_it_stands_in_pipelines_and_searches(blobs, few):
    X, y = blobs
    pipeline = make_pipeline(StandardScaler(), learner("pcvae"))
    search = GridSearchCV(
        pipeline,
        {"semisupervisedvaeclassifier__prediction": [0.0, 25.0]},
        cv=StratifiedKFold(2, shuffle=True, random_state=0),
    ).fit(X, few)
    assert search.best_params_ == {"semisupervisedvaeclassifier__prediction": 25.0}
    assert search.score(X, y) > 0.9
    embedded = make_pipeline(learner("pcvae"), LogisticRegression()).fit(X, y)
    assert embedded.score(X, y) > 0.9


def test_data_frames_keep_their_names(blobs, few):
    X = pd.DataFrame(blobs[0], columns=list("abcd"))
    fitted = quick().fit(X, few).set_output(transform="pandas")
    assert fitted.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    names = ["semisupervisedvaeclassifier0", "semisupervisedvaeclassifier1"]
    assert fitted.transform(X).columns.tolist() == names
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(X[["b", "a", "c", "d"]])


def test_progress_is_shown_on_demand(blobs, few, capsys):
    quick().fit(blobs[0], few)
    assert capsys.readouterr().err == ""
    quick(verbose=True).fit(blobs[0], few)
    assert "elbo" in capsys.readouterr().err


def test_the_package_has_no_other_names_on_demand():
    assert SemiSupervisedVAEClassifier is pyrovae.sklearn.estimator.SemiSupervisedVAEClassifier
    with pytest.raises(AttributeError, match="no attribute 'Classifier'"):
        _ = pyrovae.Classifier
