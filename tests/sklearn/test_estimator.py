"""The estimator keeps scikit-learn's conventions, by scikit-learn's own checks."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyrovae import SemiSupervisedVAEClassifier
from pyrovae.sklearn.parameters import recipes_with_classes

TRAINED = [name for name in recipes_with_classes() if name != "auto"]

SMALL = {"latent_dim": 2, "width": 16, "batch_size": 50, "learning_rate": 0.01, "device": "cpu"}
NOT_CHECKED = {
    "check_classifiers_classes": "takes -1 for a class; here it stands for unlabelled, as in "
    "sklearn.semi_supervised, whose classifiers scikit-learn excepts by name",
    "check_sample_weight_equivalence_on_dense_data": "each repetition of a datum has draws, or "
    "neighbours, of its own",
}


@parametrize_with_checks(
    [
        SemiSupervisedVAEClassifier(device="cpu"),
        SemiSupervisedVAEClassifier("m2", epochs=6, vae_epochs=1, **SMALL | {"learning_rate": 0.02}),
        SemiSupervisedVAEClassifier("m1", m1_classifier="rbf-svm", epochs=8, **SMALL),
    ],
    expected_failed_checks=lambda estimator: NOT_CHECKED,
)
def test_it_keeps_scikit_learns_rules(estimator, check):
    check(estimator)


@pytest.mark.parametrize("model", TRAINED)
def test_it_can_be_pickled_and_cloned(model, learned, blobs, few):
    X, _ = blobs
    fitted = learned(model)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    np.testing.assert_array_equal(again.sample(3), fitted.sample(3))
    fresh = clone(fitted).set_params(width=8, epochs=1)
    assert fresh.get_params() == fitted.get_params() | {"width": 8, "epochs": 1}
    assert not hasattr(fresh, "model_")
    fresh.fit(X, few)


def test_it_stands_in_pipelines(learner, blobs, few):
    X, y = blobs
    last = make_pipeline(StandardScaler(), learner("pcvae", epochs=10)).fit(X, few)
    assert last.score(X, y) > 0.9
    embedded = make_pipeline(learner("pcvae", epochs=10), LogisticRegression()).fit(X, y)
    assert embedded.score(X, y) > 0.9


def test_data_frames_keep_their_names(quick, blobs, few):
    X = pd.DataFrame(blobs[0], columns=list("abcd"))
    fitted = quick().fit(X, few).set_output(transform="pandas")
    assert fitted.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    names = ["semisupervisedvaeclassifier0", "semisupervisedvaeclassifier1"]
    assert fitted.transform(X).columns.tolist() == names
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(X[["b", "a", "c", "d"]])


def test_progress_is_shown_on_demand(quick, blobs, few, capsys):
    quick().fit(blobs[0], few)
    assert capsys.readouterr().err == ""
    quick(verbose=True).fit(blobs[0], few)
    assert "elbo" in capsys.readouterr().err
