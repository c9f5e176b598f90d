"""Samples are in the shape and units of the data, and of the class that is asked for."""

import contextlib

import numpy as np
import pytest

from pyrovae.errors import InputError


@pytest.mark.parametrize(
    ("likelihood", "expected"),
    [
        ("auto", "Bernoulli"),
        ("gaussian", "Gaussian"),
        ("continuous-bernoulli", "ContinuousBernoulli"),
        ("categorical", "Categorical"),
    ],
)
def test_samples_are_in_the_units_of_the_data(likelihood, expected, quick, images):
    X, y = images
    constant = pytest.warns(UserWarning, match="columns 0, 1, .* are constant")
    with constant if likelihood == "gaussian" else contextlib.nullcontext():
        fitted = quick(likelihood=likelihood).fit(X, y)
    assert type(fitted.model_.likelihood).__name__ == expected
    mean = fitted.sample(200).mean(0)
    assert np.abs(mean - X.mean(0)).mean() < 0.1
    assert np.corrcoef(mean, X.mean(0))[0, 1] > 0.9


@pytest.mark.parametrize(("model", "right"), [("m2", 0.95), ("m1m2", 0.9), ("pcvae", 0.6)])
def test_samples_are_of_the_class_that_is_asked_for(model, right, learned, blobs):
    """Of a PC-VAE, they are as pure as its p(y | z) is sharp where p(z) has its mass."""
    X, y = blobs
    fitted = learned(model)
    centres = np.array([X[y == c].mean(0) for c in range(3)])
    asked = np.arange(99) % 3
    made = fitted.sample(99, y=asked)
    nearest = ((made[:, None] - centres) ** 2).sum(-1).argmin(1)
    assert (nearest == asked).mean() > right
    assert fitted.sample(4, y=1).shape == (4, 4)
    assert not np.array_equal(fitted.sample(4, random_state=1), fitted.sample(4, random_state=2))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("m2", {"y": 3}, r"class 3 is not known.*\[0, 1, 2\]"),
        ("m2", {"y": -1}, "class -1 is not known"),
        ("m2", {"y": [0, 1]}, r"y has shape \(2,\)"),
        ("m2", {"n_samples": 0}, "count is 0"),
        ("m1", {"y": 0}, "'m1' generates data without classes"),
    ],
)
def test_samples_that_cannot_be_are_refused(model, options, message, learned):
    with pytest.raises(InputError, match=message):
        learned(model).sample(**({"n_samples": 4} | options))
