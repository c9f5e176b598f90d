"""Scores of classifiers on data of which some are unlabelled, for cross-validation and grid searches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import get_scorer
from sklearn.utils import _safe_indexing

from pyrovae.data.checks import UNLABELLED
from pyrovae.errors import InputError, warn
from pyrovae.sklearn.labels import given_labels

Scorer = Callable[..., float]


def labelled_scorer(scoring: str | Scorer = "balanced_accuracy") -> Scorer:
    """Make a scorer that leaves unlabelled data out.

    A scorer of scikit-learn takes the label -1, which means "unlabelled", for one more class. The score of
    a perfect classifier is then the share of labelled data.

    Let the folds be stratified, which is scikit-learn's default for classifiers. Each then has labels of
    each class if no class has fewer labels than there are folds.

    Args:
        scoring: a name of scikit-learn's scorers, such as "balanced_accuracy" or "neg_log_loss"; or a
            scorer, such as `make_scorer(f1_score, average="macro")`.

    Returns:
        A scorer `scorer(estimator, X, y)`. It raises an InputError if no datum is labelled, or if the score
        is not defined because a class has no label. It warns if some classes of the estimator have no label
        in y.

    Example:
        >>> import numpy as np
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.model_selection import cross_val_score
        >>> from sklearn.semi_supervised import LabelSpreading
        >>> from pyrovae.sklearn import labelled_scorer
        >>> X, y = load_iris(return_X_y=True)
        >>> few = np.where(np.arange(150) % 5 == 0, y, -1)
        >>> scores = cross_val_score(LabelSpreading(), X, few, scoring=labelled_scorer("accuracy"))
        >>> bool(scores.mean() > 0.9)
        True
    """
    return _LabelledScorer(scoring if callable(scoring) else get_scorer(scoring))


class _LabelledScorer:
    """A scorer of the labelled data alone. A class, since searches send scorers to other processes."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def __call__(self, estimator: Any, X: Any, y: Any, **settings: Any) -> float:
        labels, given = given_labels(y, len(y))
        if not given.any():
            raise InputError(
                f"none of these {len(y)} data is labelled, so there is no score: use fewer folds, or "
                "StratifiedKFold, which gives each fold its share of the labels."
            )
        classes = [c for c in np.asarray(estimator.classes_).tolist() if c != UNLABELLED]
        lacking = [c for c in classes if c not in labels.tolist()]
        if lacking:
            warn(
                f"no datum of the class {lacking[0]!r} is labelled here ({len(lacking)} of {len(classes)} "
                "classes), so the score does not count it: use no more folds than a class has labels, and "
                "StratifiedKFold."
            )
        if settings.get("sample_weight") is not None:
            settings["sample_weight"] = np.asarray(settings["sample_weight"])[given]
        try:
            return self.scorer(estimator, _safe_indexing(X, np.flatnonzero(given)), labels, **settings)
        except ValueError as error:
            if not lacking:
                raise
            raise InputError(
                f"the score {self.scorer} is not defined where the classes {lacking} have no label "
                f"({error}): use no more folds than a class has labels, and StratifiedKFold."
            ) from error

    def __repr__(self) -> str:
        return f"labelled_scorer({self.scorer})"
