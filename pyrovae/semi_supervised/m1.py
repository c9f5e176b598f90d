"""M1 (Kingma et al. 2014): a VAE, and a classifier of its latents that scikit-learn trains."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from pyrovae.data.checks import UNLABELLED
from pyrovae.errors import check_choice
from pyrovae.semi_supervised.spreading import label_spreading


def _standardised(classifier: Any) -> Pipeline:
    return make_pipeline(StandardScaler(), classifier)


M1_CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "logistic": lambda: _standardised(LogisticRegression(max_iter=2000)),
    "linear-svm": lambda: _standardised(LinearSVC(random_state=0)),
    "rbf-svm": lambda: _standardised(SVC()),
    "label-spreading": label_spreading,
}
"""The classifiers of latents that turn a VAE into M1.

"label-spreading" learns from unlabelled data too, as does the transductive SVM of Kingma et al. (2014). The
others learn from labelled data alone. The two SVMs have no `predict_proba`."""


def fit_m1_classifier(name: str, z: np.ndarray, y: np.ndarray, neighbours: int = 10) -> Any:
    """Fit one of `M1_CLASSIFIERS` to latents.

    Args:
        name: the name of the classifier.
        z: latents, `(N, M)`.
        y: classes `(N,)`, -1 for unlabelled data.
        neighbours: the number of neighbours of each datum in the graph along which labels spread. Only
            "label-spreading" has a graph.

    Returns:
        The fitted scikit-learn classifier.

    Raises:
        InputError: no classifier has that name.

    Example:
        >>> import numpy as np
        >>> z, y = np.array([[0.0], [0.1], [5.0], [5.1]]), np.array([0, -1, 1, -1])
        >>> fit_m1_classifier("logistic", z, y).predict(z)
        array([0, 0, 1, 1])
    """
    check_choice("M1 classifier", name, M1_CLASSIFIERS)
    spreads = name == "label-spreading"
    classifier = label_spreading(neighbours) if spreads else M1_CLASSIFIERS[name]()
    rows = slice(None) if spreads else y != UNLABELLED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(z[rows], y[rows])


def m1_probabilities(classifier: Any, z: np.ndarray) -> np.ndarray:
    """Compute the class probabilities of a fitted classifier of latents.

    Args:
        classifier: a scikit-learn classifier that has `predict_proba`.
        z: latents, `(N, M)`.

    Returns:
        The probabilities `(N, C)`, float32. For data that no label has reached, all classes are equally
        probable.
    """
    with np.errstate(invalid="ignore"):  # scikit-learn divides 0 by 0 where no label has arrived
        probabilities = classifier.predict_proba(z)
    probabilities[np.isnan(probabilities).any(1)] = 1 / probabilities.shape[1]
    return probabilities.astype(np.float32)
