"""Detectors of outliers: data below a threshold of log p(x)."""

import numpy as np
import pytest
from densities import make
from sklearn.metrics import roc_auc_score

from pyrovae.errors import InputError

DETECTORS = ["vae outliers", "ppca outliers"]


@pytest.fixture(scope="session")
def plane() -> tuple[np.ndarray, np.ndarray]:
    """X (120, 5) near a plane, and 20 data off the plane, five times as far from the origin."""
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    near = rng.normal(size=(120, 2)) @ axes[:2] + 0.05 * rng.normal(size=(120, 5))
    return near, 5 * rng.normal(size=(20, 3)) @ axes[2:]


@pytest.mark.filterwarnings("ignore:k-hat is above")  # of score_samples
@pytest.mark.parametrize("name", DETECTORS)
def test_outliers_have_a_low_density(name, plane):
    near, far = plane
    options = {} if name.startswith("ppca") else {"epochs": 20, "batch_size": 30, "num_samples": 50}
    detector = make(name, **options).fit(near)
    X, is_far = np.concatenate([near, far]), np.repeat([0, 1], [120, 20])
    assert roc_auc_score(is_far, -detector.score_samples(X)) > 0.95
    np.testing.assert_allclose(detector.decision_function(X), detector.score_samples(X) - detector.offset_)
    assert (detector.predict(X) == np.where(detector.decision_function(X) >= 0, 1, -1)).all()
    assert (detector.predict(far) == -1).mean() > 0.9


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("contamination", [0.05, 0.1, 0.5])
def test_the_share_of_outliers_is_that_of_the_training_data(name, contamination, plane):
    predicted = make(name, contamination=contamination).fit_predict(plane[0])
    assert (predicted == -1).sum() == round(120 * contamination)


def test_weights_count_in_the_threshold(plane):
    """With all of the weight on ten data, one of them is a tenth."""
    near, _ = plane
    weight = np.where(np.arange(120) < 10, 1.0, 1e-15)
    detector = make("ppca outliers", contamination=0.1).fit(near, sample_weight=weight)
    assert (detector.predict(near[:10]) == -1).sum() == 1


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("contamination", [0.0, 0.6, -0.1])
def test_a_share_that_cannot_be_is_refused(name, contamination, plane):
    with pytest.raises(InputError, match=r"contamination is .*above 0 and at most 0.5"):
        make(name, contamination=contamination).fit(plane[0])
