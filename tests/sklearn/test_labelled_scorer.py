"""A scorer that leaves unlabelled data out, alone and in searches."""

import pickle

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, make_scorer
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from pyrovae.errors import InputError
from pyrovae.sklearn import labelled_scorer


@pytest.fixture(scope="session")
def classifier(blobs):
    """A classifier of scikit-learn that makes mistakes, as it has seen one of four features."""
    X, y = blobs
    return make_pipeline(FunctionTransformer(_first), LogisticRegression()).fit(X, y)


def _first(X):
    return X[:, :1]


@pytest.mark.parametrize(
    ("scoring", "expected"),
    [
        ("accuracy", lambda y, c, X: np.mean(c.predict(X) == y)),
        ("balanced_accuracy", lambda y, c, X: balanced_accuracy_score(y, c.predict(X))),
        ("neg_log_loss", lambda y, c, X: -log_loss(y, c.predict_proba(X))),
        (
            make_scorer(f1_score, average="macro"),
            lambda y, c, X: f1_score(y, c.predict(X), average="macro"),
        ),
    ],
)
def test_it_is_the_score_of_the_labelled_data_alone(scoring, expected, classifier, blobs, few):
    X, known = blobs[0], few != -1
    scorer = labelled_scorer(scoring)
    assert scorer(classifier, X, few) == pytest.approx(expected(few[known], classifier, X[known]))
    assert pickle.loads(pickle.dumps(scorer))(classifier, X, few) == scorer(classifier, X, few)
    named = [None if label == -1 else "abc"[label] for label in few]
    letters = LogisticRegression(max_iter=1000).fit(X, np.array([*"abc"])[blobs[1]])
    assert labelled_scorer("accuracy")(letters, X, named) == 1


def test_weights_are_those_of_the_labelled_data(classifier, blobs, few):
    X, known, weight = blobs[0], few != -1, np.arange(90.0)
    right = classifier.predict(X[known]) == few[known]
    found = labelled_scorer("accuracy")(classifier, X, few, sample_weight=weight)
    assert found == pytest.approx(np.average(right, weights=weight[known]))


def test_a_search_by_balanced_accuracy_and_log_loss(learner, blobs, few):
    """scikit-learn's own scorer takes "unlabelled" for a class that is never predicted."""
    X = blobs[0]
    scoring = {name: labelled_scorer(name) for name in ("balanced_accuracy", "neg_log_loss")}
    search = GridSearchCV(
        learner("m2", vae_epochs=8),
        {"epochs": [1, 15]},
        scoring=scoring,
        refit="neg_log_loss",
        cv=StratifiedKFold(2, shuffle=True, random_state=0),
        error_score="raise",
    ).fit(X, few)
    assert search.cv_results_["mean_test_balanced_accuracy"].max() > 0.9
    assert search.best_params_ == {"epochs": 15}
    assert cross_val_score(search.best_estimator_, X, few, cv=2, scoring="accuracy").mean() < 0.3


def test_folds_without_labels_of_a_class_are_named(classifier, blobs, few):
    X, of_two = blobs[0], np.where(few == 2, -1, few)
    with pytest.warns(UserWarning, match=r"no datum of the class 2 is labelled here \(1 of 3 classes\)"):
        labelled_scorer("balanced_accuracy")(classifier, X, of_two)
    with (
        pytest.warns(UserWarning, match="class 2"),
        pytest.raises(InputError, match=r"not defined where the classes \[2\] have no label.*Stratified"),
    ):
        labelled_scorer("neg_log_loss")(classifier, X, of_two)
    none = np.full(90, -1)
    with pytest.raises(InputError, match=r"none of these 90 data is labelled.*StratifiedKFold"):
        labelled_scorer()(classifier, X, none)


def test_an_unknown_score_is_refused_at_once():
    with pytest.raises(ValueError, match="accurracy"):
        labelled_scorer("accurracy")
