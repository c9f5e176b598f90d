"""Labels of any kind: strings, numbers, missing values, lists and series."""

import numpy as np
import pandas as pd
import pytest

from pyrovae.errors import InputError
from pyrovae.sklearn.labels import codes_of, encode_labels

NAMES = np.array(["ape", "bee", "cow"])


@pytest.fixture(scope="session")
def expected(quick, blobs, few):
    return quick().fit(blobs[0], few)


@pytest.mark.parametrize(
    "kind",
    [
        "strings",
        "objects with -1",
        "objects with '-1'",
        "None",
        "NaN",
        "list",
        "series",
        "nullable",
        "masked",
    ],
)
def test_labels_of_any_kind_give_the_same_classifier(kind, expected, quick, blobs, few):
    X, _ = blobs
    named = [NAMES[c] if c >= 0 else None for c in few]
    labels = {
        "strings": np.array(["-1" if name is None else name for name in named]),
        "objects with -1": np.array([-1 if name is None else name for name in named], dtype=object),
        "objects with '-1'": np.array(["-1" if name is None else name for name in named], dtype=object),
        "None": np.array(named, dtype=object),
        "NaN": np.array([np.nan if name is None else name for name in named], dtype=object),
        "list": [-1 if name is None else name for name in named],
        "series": pd.Series(named),
        "nullable": pd.Series(named, dtype="string"),
        "masked": np.ma.masked_array([name or "cow" for name in named], mask=few < 0),
    }[kind]
    fitted = quick().fit(X, labels)
    assert fitted.classes_.tolist() == ["ape", "bee", "cow"]
    np.testing.assert_array_equal(fitted.predict(X), NAMES[expected.predict(X)])
    np.testing.assert_array_equal(fitted.predict_proba(X), expected.predict_proba(X))
    assert fitted.score(X, labels) == expected.score(X, few)
    np.testing.assert_array_equal(fitted.sample(3, y="bee"), expected.sample(3, y=1))


@pytest.mark.parametrize(
    ("labels", "classes", "codes"),
    [
        ([5, 1000, -1, 5], [5, 1000], [0, 1, -1, 0]),
        ([-3, 2, -1, -1], [-3, 2], [0, 1, -1, -1]),
        ([0.0, np.nan, -1.0, 1.0], [0, 1], [0, -1, -1, 1]),
        ([0, None, 1, -1], [0, 1], [0, -1, 1, -1]),
        ([True, False, -1, None], [False, True], [1, 0, -1, -1]),
        (pd.Series([1, None, 2, 1], dtype="Int64"), [1, 2], [0, -1, 1, 0]),
        (np.array(["-1", "1", "2", "1"]), ["1", "2"], [-1, 0, 1, 0]),
    ],
)
def test_all_but_unlabelled_are_classes(labels, classes, codes, quick, blobs):
    found, numbers = encode_labels(labels, 4)
    assert found.tolist() == classes
    assert numbers.tolist() == codes
    fitted = quick(epochs=1, vae_epochs=1).fit(blobs[0][:4], labels)
    assert fitted.classes_.tolist() == classes
    assert set(fitted.transduction_) <= set(classes)
    assert set(fitted.predict(blobs[0])) <= set(classes)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(90, -1), "all 90 data are unlabelled"),
        ([None] * 90, "all 90 data are unlabelled"),
        (np.arange(89) % 2, "90 data.* 89 labels"),
        (np.where(np.arange(90) < 5, 7, -1), "1 class only, 7"),
        (["a", 1] * 45, "strings and some are not"),
        (np.linspace(0, 1, 90), "Unknown label type: continuous"),
        (np.where(np.arange(90) < 5, np.inf, 1.0), "infinite labels"),
        (None, "requires y to be passed"),
        (np.zeros((90, 2)), "y should be a 1d array"),
    ],
)
def test_labels_that_cannot_be_are_refused(labels, message, quick, blobs):
    with pytest.raises(ValueError, match=message):
        quick().fit(blobs[0], labels)


def test_classes_are_looked_up_by_name():
    assert codes_of("bee", NAMES, 2).tolist() == [1, 1]
    assert codes_of(["cow", "ape"], NAMES, 2).tolist() == [2, 0]
    with pytest.raises(InputError, match="'dog' is not known"):
        codes_of("dog", NAMES, 1)


@pytest.mark.parametrize("kind", ["int64", "uint8", "float64", "object"])
def test_masked_labels_are_unlabelled_whatever_lies_under_the_mask(kind):
    y = np.ma.masked_array(np.array([5, 7, 5, 7, 9], dtype=kind), mask=[0, 0, 1, 1, 1])
    classes, codes = encode_labels(y, 5)
    assert classes.tolist() == [5, 7]
    assert codes.tolist() == [0, 1, -1, -1, -1]


def test_masked_data_are_refused(quick, blobs, few):
    X = np.ma.masked_array(blobs[0], mask=blobs[0] > 130)
    with pytest.raises(InputError, match=r"X is a masked array, \d+ of whose 360 values are masked"):
        quick().fit(X, few)
