"""What users of Python pass to an estimator: pandas' own types, arrays, tensors, weights, pickles."""

import copy
import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.sklearn.labels import given_labels
from pyrovae.sklearn.scaling import Scaling


@pytest.mark.parametrize(
    ("values", "dtype", "classes"),
    [
        ([0, 1, None, 1, -1], "Int64", [0, 1, 1]),
        ([0, 255, None, 1, 7], "UInt8", [0, 255, 1, 7]),
        ([True, False, None, True, False], "boolean", [True, False, True, False]),
        ([0.0, 1.0, None, 1.0, -1.0], "Float64", [0, 1, 1]),
        (["a", "b", None, "b", "-1"], "string", ["a", "b", "b"]),
        (["a", "b", None, "b", "b"], "category", ["a", "b", "b", "b"]),
    ],
)
def test_labels_of_pandas_own_types_keep_their_type(values, dtype, classes):
    labels, given = given_labels(pd.Series(values, dtype=dtype), 5)
    assert labels.tolist() == classes
    assert labels.dtype.kind == {"I": "i", "U": "i", "b": "b", "F": "f"}.get(dtype[0], "O")
    assert np.flatnonzero(~given).tolist() == ([2, 4] if len(classes) == 3 else [2])


def test_classes_of_a_nullable_series_are_whole_numbers(quick, blobs, few):
    y = pd.Series(few).astype("Int64").mask(few == -1)
    fitted = quick().fit(blobs[0], y)
    assert fitted.classes_.dtype.kind == "i"
    assert fitted.predict(blobs[0]).dtype.kind == "i"


def test_an_image_shape_may_be_an_array(quick, images):
    X, y = images
    shape = np.array([1, 8, 8])
    by_array = quick(image_shape=shape, network="conv").fit(X, y)
    by_tuple = quick(image_shape=(1, 8, 8), network="conv").fit(X, y)
    assert np.array_equal(by_array.transform(X), by_tuple.transform(X))


def test_a_tensor_may_require_a_gradient(quick, blobs, few):
    X = torch.from_numpy(blobs[0]).requires_grad_()
    fitted = quick().fit(X, few)
    assert np.array_equal(fitted.predict_proba(X), quick().fit(blobs[0], few).predict_proba(blobs[0]))


@pytest.mark.parametrize(("likelihood", "largest"), [("gaussian", 1e160), ("bernoulli", 1e60)])
def test_features_that_are_too_large_are_told_by_their_size(likelihood, largest):
    array = np.array([[0.0, 1.0], [1.0, largest]])
    with pytest.raises(InputError, match=re.escape(f"values as large as {largest:.3g}, too large for")):
        Scaling.of(array, (2,), likelihood).transform(array)
    kept = Scaling.of(array / largest, (2,), likelihood).transform(array / largest)
    assert kept.isfinite().all(), "the remedy"


def test_features_far_beyond_those_of_the_training_are_told(quick, blobs, few):
    fitted = quick().fit(blobs[0], few)
    with pytest.raises(InputError, match=r"X holds values as large as 1e\+60"):
        fitted.predict(np.full((1, 4), 1e60))


@pytest.mark.parametrize("count", [1, 89, 91])
def test_weights_of_another_length_are_refused(quick, blobs, few, count):
    fitted = quick().fit(blobs[0], few)
    with pytest.raises(ValueError, match=r"inconsistent|shape"):
        fitted.score(blobs[0], few, sample_weight=np.ones(count))
    assert fitted.score(blobs[0], few, sample_weight=np.ones(90)) == fitted.score(blobs[0], few)


def test_a_pickle_tells_the_version_that_wrote_it(quick, blobs, few, monkeypatch):
    fitted = quick().fit(blobs[0], few)
    written = pickle.dumps(fitted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = pickle.loads(written)
        assert vars(copy.deepcopy(fitted)).keys() == vars(again).keys() == vars(fitted).keys()
    assert np.array_equal(again.predict(blobs[0]), fitted.predict(blobs[0]))
    monkeypatch.setattr("pyrovae.sklearn.pickles.__version__", "9.9")
    with pytest.warns(UserWarning, match=r"was pickled by pyrovae \d.*, and is read by 9\.9: its"):
        pickle.loads(written)
    old = copy.copy(fitted)
    with pytest.warns(UserWarning, match="was pickled by pyrovae an earlier version, and is read by"):
        old.__setstate__(vars(fitted))
