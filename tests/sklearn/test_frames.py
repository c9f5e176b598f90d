"""Data frames: what an estimator generates has the names of the features where the user wants a frame."""

import numpy as np
import pytest

from pyrovae import PPCATransformer, SemiSupervisedVAEClassifier

pandas = pytest.importorskip("pandas")
NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def frame():
    x = np.random.default_rng(0).normal(size=(30, 4))
    return pandas.DataFrame(x, columns=NAMES, index=range(100, 130))


def test_a_frame_is_reconstructed_as_a_frame(frame):
    ppca = PPCATransformer(latent_dim=2).fit(frame)
    found = ppca.reconstruct(frame)
    assert (list(found.columns), list(found.index)) == (NAMES, list(frame.index))
    np.testing.assert_array_equal(found, ppca.inverse_transform(ppca.transform(frame)))
    for array in (ppca.sample(3), ppca.inverse_transform(ppca.transform(frame))):
        assert isinstance(array, np.ndarray)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_set_output_holds_for_all_that_has_features(frame):
    ppca = PPCATransformer(latent_dim=2).fit(frame).set_output(transform="pandas")
    z = ppca.transform(frame)
    gaps = frame.to_numpy().copy()
    gaps[0, 1] = np.nan
    for found in (ppca.sample(3), ppca.inverse_transform(z), ppca.impute(gaps), ppca.reconstruct(gaps)):
        assert list(found.columns) == NAMES
    np.testing.assert_array_equal(ppca.sample(3, random_state=1).shape, (3, 4))
    y = np.arange(30) % 2
    classifier = SemiSupervisedVAEClassifier(random_state=0).fit(frame, y).set_output(transform="pandas")
    assert list(classifier.sample(2).columns) == NAMES


def test_images_stay_arrays():
    x = np.random.default_rng(0).random((20, 1, 2, 3))
    ppca = PPCATransformer(latent_dim=2).fit(x).set_output(transform="pandas")
    assert ppca.sample(2).shape == (2, 1, 2, 3)
