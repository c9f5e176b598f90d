"""Features of any shape and any units."""

import numpy as np
import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.sklearn.scaling import Scaling


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_images_are_flat_or_not(network, quick, images):
    X, y = images
    flat = quick(network=network, image_shape=(1, 8, 8)).fit(X, y)
    shaped = quick(network=network).fit(X.reshape(-1, 1, 8, 8), y)
    np.testing.assert_array_equal(flat.predict_proba(X), shaped.predict_proba(X.reshape(-1, 1, 8, 8)))
    np.testing.assert_array_equal(flat.predict_proba(X.reshape(-1, 1, 8, 8)), shaped.predict_proba(X))
    assert flat.n_features_in_ == shaped.n_features_in_ == 64
    assert flat.sample(3).shape == (3, 64)
    assert shaped.sample(3).shape == (3, 1, 8, 8)
    with pytest.raises(InputError, match=r"shape \(1, 4, 16\).*\(1, 8, 8\)"):
        shaped.predict(X.reshape(-1, 1, 4, 16))


def test_units_of_features_do_not_matter(quick, blobs, few):
    X, _ = blobs
    units = np.array([1e-6, 1.0, 1e6, 1e9])
    own, other = quick().fit(X, few), quick().fit(X * units + units, few)
    assert type(own.model_.likelihood).__name__ == "Gaussian"
    np.testing.assert_allclose(own.predict_proba(X), other.predict_proba(X * units + units), rtol=1e-3)
    np.testing.assert_allclose(own.sample(5) * units + units, other.sample(5), rtol=1e-3)


def test_colours_are_standardised_by_channel(quick, images):
    X, y = images
    X = X.reshape(-1, 1, 8, 8) * [[[200.0]], [[2.0]]] + [[[0.0]], [[50.0]]]
    flat = X.reshape(40, -1)
    scaling = Scaling.of(flat, (2, 8, 8), "gaussian")
    x = scaling.transform(flat).unflatten(1, (2, 8, 8))
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-5, rtol=0)
    np.testing.assert_allclose(scaling.inverse_transform(x.flatten(1).numpy()), flat, rtol=1e-4, atol=1e-4)
    fitted = quick(network="conv").fit(X, y)
    assert fitted.transform(X).shape == (40, 2)
    assert np.abs(fitted.sample(100).mean((0, 2, 3)) - X.mean((0, 2, 3))).max() < 20


def test_features_in_the_unit_interval_stay_as_they_are(images):
    X, _ = images
    scaling = Scaling.of(X, (64,), "bernoulli")
    np.testing.assert_array_equal(scaling.transform(X), X.astype(np.float32))
    np.testing.assert_array_equal(scaling.inverse_transform(X), X)


def test_constant_channels_keep_their_scale():
    scaling = Scaling.of(np.full((5, 2), 3.0), (2, 1, 1), "gaussian")
    assert scaling.offset.tolist() == [3, 3]
    assert scaling.scale.tolist() == [1, 1]


def test_the_model_of_vectors_is_in_their_own_units(quick, blobs, few):
    X = blobs[0] * [1e-3, 1.0, 1e3, 7.0] + 5
    model = quick().fit(X, few).model_
    np.testing.assert_allclose(model.likelihood.standardisation.shift, X.mean(0), rtol=1e-4)
    np.testing.assert_allclose(model.likelihood.standardisation.scale, X.std(0), rtol=1e-4)
    raw = quick(standardise=False, likelihood="gaussian").fit(X, few).model_
    assert raw.likelihood.standardisation is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": "normal"}, "unknown likelihood 'normal'.*auto, bernoulli"),
        ({"likelihood": "bernoulli"}, r".0, 1"),
        ({"network": "conv"}, "images of shape .C, H, W."),
        ({"image_shape": (1, 2, 3)}, r"image_shape is \(1, 2, 3\).*shape \(4,\)"),
    ],
)
def test_features_that_do_not_fit_are_refused(options, message, quick, blobs, few):
    with pytest.raises(InputError, match=message):
        quick(**options).fit(blobs[0], few)


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous-bernoulli", "categorical"])
def test_prediction_refuses_what_fit_refuses(likelihood, quick, images):
    X, y = images
    fitted = quick(likelihood=likelihood).fit(X, y)
    for method in (fitted.predict, fitted.predict_proba, fitted.transform):
        with pytest.raises(InputError, match=r"values of X go from 0 to 16, .* \[0, 1\]"):
            method(16 * X)
    with pytest.warns(UserWarning, match="values of X lie outside .* clipped"):
        clipped = fitted.predict_proba(1.05 * X)
    np.testing.assert_array_equal(clipped, fitted.predict_proba(np.clip(1.05 * X, 0, 1)))
