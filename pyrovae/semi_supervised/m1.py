"""M1 (Kingma et al. 2014): a VAE, and a classifier of its latents that scikit-learn trains."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC, LinearSVC

from pyrovae.data.checks import UNLABELLED
from pyrovae.errors import check_choice
from pyrovae.semi_supervised.averaging import AveragedClassifier
from pyrovae.semi_supervised.spreading import NEIGHBOURS, SpreadLabels

M1_CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "logistic": lambda: LogisticRegression(max_iter=2000),
    "linear-svm": lambda: LinearSVC(random_state=0),
    "rbf-svm": SVC,
    "label-spreading": SpreadLabels,
    "averaged": AveragedClassifier,
}
"""The classifiers of latents that turn a VAE into M1.

"label-spreading" and "averaged" learn from unlabelled data too, as does the transductive SVM of Kingma et
al. (2014). The others learn from labelled data alone. The two SVMs have no `predict_proba`."""

LEARN_FROM_ALL = ("label-spreading", "averaged")
"""The classifiers of M1 that learn from unlabelled data too."""


def fit_m1_classifier(
    name: str,
    z: np.ndarray,
    y: np.ndarray,
    neighbours: int = NEIGHBOURS,
    sample_weight: np.ndarray | None = None,
) -> Any:
    """Fit one of `M1_CLASSIFIERS` to latents.

    Args:
        name: the name of the classifier.
        z: latents, `(N, M)`, in the decoder's scale (`decoder_scales`). They are not standardised.
        y: classes `(N,)`, -1 for unlabelled data.
        neighbours: the number of neighbours of each datum in the graph along which labels spread. Only
            the classifiers that learn from unlabelled data too have a graph.
        sample_weight: the weight of each datum, `(N,)`. None means equal weights.

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
    classifier, rows = M1_CLASSIFIERS[name](), slice(None) if name in LEARN_FROM_ALL else y != UNLABELLED
    if name in LEARN_FROM_ALL:
        classifier.set_params(neighbours=neighbours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(z[rows], y[rows], None if sample_weight is None else sample_weight[rows])


def m1_probabilities(classifier: Any, z: np.ndarray) -> np.ndarray:
    """Compute the class probabilities of a fitted classifier of latents.

    Args:
        classifier: a scikit-learn classifier that has `predict_proba`.
        z: latents, `(N, M)`.

    Returns:
        The probabilities `(N, C)`, float32. For data that no label has reached, all classes are equally
        probable.
    """
    return np.asarray(classifier.predict_proba(z), np.float32)
