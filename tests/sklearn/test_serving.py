"""Estimators in threads, as in a web server, and a second `fit` that does not reach its end.

CI asks some tens of times beside a running `fit`. For 1,000 calls by eight threads set PYROVAE_CALLS=1000.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from joblib import parallel_backend
from pyro.poutine.runtime import _PYRO_STACK
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from pyrovae.errors import NonFiniteError

CALLS = ("predict", "predict_proba", "transform")
LEAST = int(os.environ.get("PYROVAE_CALLS", "30"))


def answers(fitted, X, times=1):
    """Ask for each row by each method."""
    return [getattr(fitted, name)(row[None]).tolist() for _ in range(times) for name in CALLS for row in X]


@pytest.mark.parametrize("model", ["pcvae", "m1"])
def test_eight_threads_through_one_estimator_get_the_answers_of_one(model, quick, blobs, few, threads):
    fitted = quick(model).fit(blobs[0], few)
    rows = blobs[0][:4]
    expected = answers(fitted, rows)
    assert all(found == expected for found in threads.map(lambda _: answers(fitted, rows), range(8)))
    drawn = fitted.sample(3, random_state=1).tolist()
    samples = threads.map(lambda _: fitted.sample(3, random_state=1).tolist(), range(8))
    assert all(found == drawn for found in samples)
    assert _PYRO_STACK == []


def test_calls_beside_a_fit_of_another_answer_as_alone_and_the_fit_too(quick, blobs, few, threads):
    fitted, other = quick().fit(blobs[0], few), quick("m2", epochs=5 + LEAST // 2)
    rows = blobs[0][:4]
    expected = answers(fitted, rows)
    alone = clone(other).fit(blobs[0], few).predict_proba(blobs[0])
    begun, answered = threading.Event(), []

    def fit():
        begun.set()
        return other.fit(blobs[0], few)

    def ask(_):
        while not running.done() and len(answered) < LEAST:
            assert answers(fitted, rows) == expected
            answered.extend(expected)

    with ThreadPoolExecutor(1) as of_fit:
        running = of_fit.submit(fit)
        begun.wait()
        list(threads.map(ask, range(8)))
    assert len(answered) >= LEAST, "the fit ended before all calls were made"
    np.testing.assert_array_equal(running.result().predict_proba(blobs[0]), alone)


def test_cross_validation_in_threads(quick, blobs):
    X, y = blobs
    expected = cross_val_score(quick(), X, y, cv=3, error_score="raise")
    with parallel_backend("threading", n_jobs=3):
        found = cross_val_score(quick(), X, y, cv=3, error_score="raise")
    np.testing.assert_array_equal(found, expected)


def test_an_estimator_that_is_fitted_anew_answers_by_one_fit_or_the_other(quick, blobs, few, threads):
    """Never by the network of one and the classes of the other."""
    X = blobs[0]
    names = np.array(["ape", "bee", "cow", "-1"])[few]
    one, other = quick(random_state=0).fit(X, few), quick(random_state=0).fit(X, names)
    asked = clone(one).fit(X, few)
    stop, seen = threading.Event(), []

    def ask():
        while not stop.is_set():
            seen.append(asked.predict(X).tolist())

    threads.submit(ask)
    for labels in (names, few, names):
        asked.fit(X, labels)
    stop.set()
    threads.shutdown()
    assert all(found in (one.predict(X).tolist(), other.predict(X).tolist()) for found in seen)


@pytest.mark.parametrize("error", [KeyboardInterrupt, NonFiniteError, MemoryError])
def test_a_second_fit_that_does_not_end_leaves_the_first_result_whole(
    error, quick, blobs, few, monkeypatch
):
    X = blobs[0]
    fitted = quick().fit(X, few)
    before, attributes = answers(fitted, X[:3]), set(vars(fitted))

    def fail(*args, **kwargs):
        raise error("in the middle of the training")

    monkeypatch.setattr("pyrovae.recipes.plan.Plan.fit", fail)
    with pytest.raises(error):
        fitted.fit(16 * X[:, :3], np.array(["x", "y", "-1"])[few % 3 - 1])
    assert answers(fitted, X[:3]) == before
    assert fitted.classes_.tolist() == [0, 1, 2]
    assert fitted.n_features_in_ == 4
    assert set(vars(fitted)) == attributes
    never = quick()
    with pytest.raises(error):
        never.fit(X, few)
    assert set(vars(never)) == set(vars(quick()))
