"""M1's classifiers learn from few labels, and their probabilities are always probabilities."""

import numpy as np
import pytest

from pyrovae import data
from pyrovae.errors import InputError
from pyrovae.semi_supervised import M1_CLASSIFIERS, fit_m1_classifier, m1_probabilities, only_labels_of


@pytest.mark.parametrize("name", M1_CLASSIFIERS)
def test_every_classifier_of_m1_learns_from_few_labels(name):
    z, y = data.load("digits").x_train.flatten(1), data.load("digits").y_train
    given = only_labels_of(data.labels_per_class(y, 10, 0), y).numpy()
    predicted = fit_m1_classifier(name, z[:1000].numpy(), given[:1000]).predict(z[1000:].numpy())
    error = (predicted != y[1000:].numpy()).mean()
    assert error < (0.06 if name == "label-spreading" else 0.2)


def test_an_unknown_classifier_is_refused():
    with pytest.raises(InputError, match=r"'svm'.*linear-svm"):
        fit_m1_classifier("svm", np.zeros((2, 1)), np.array([0, 1]))


def test_classes_are_equally_probable_where_no_label_has_arrived():
    z = np.array([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]])
    fitted = fit_m1_classifier("label-spreading", z, np.array([0, 1, -1, -1, -1, -1]), neighbours=2)
    probabilities = m1_probabilities(fitted, z)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(probabilities[3:], np.full((3, 2), 0.5))
