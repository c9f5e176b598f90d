"""The average of several classifiers of latents, weighted by what the labels say of each.

Which classifier is right for a few labels depends on the data. Images of one digit are neighbours of each
other, wines of one kind are a Gaussian cloud, and good and bad credits are neither. Labels that are held
out in turn tell the classifiers apart. Where they are too few to do so, the average is better than one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from pyrovae.data.checks import UNLABELLED
from pyrovae.semi_supervised.linear_m2 import LinearM2
from pyrovae.semi_supervised.spreading import NEIGHBOURS, LocalNeighbours, SpreadLabels

PRIOR = {"logistic": 0.665, "linear-m2": 0.245, "label-spreading": 0.09}
"""The probability of each classifier before any label is seen. It is lower where more is assumed of the
unlabelled data."""

FOLDS = 5
"""The number of parts into which the labels of each class are divided, at most one for each label."""

_UNIFORM = 1e-3  # this share of a uniform distribution keeps one wrong label from deciding alone


@dataclass(frozen=True)
class Choice:
    """What the labels said of each classifier.

    Attributes:
        weights: the weight of each classifier in the average.
        log_scores: the mean of log p(y | z) over held-out labels, in nats.
        balanced_accuracies: the balanced accuracy on held-out labels.
        num_labels: the number of held-out labels. It is 0 where no class has two.
    """

    weights: Mapping[str, float]
    log_scores: Mapping[str, float]
    balanced_accuracies: Mapping[str, float]
    num_labels: int

    def __str__(self) -> str:
        lines = [f"weights of the classifiers, by {self.num_labels} labels that were held out in turn:"]
        for name, weight in self.weights.items():
            lines.append(f"  {name:<16}{weight:6.3f}")
            if self.num_labels:
                score, accuracy = self.log_scores[name], 100 * self.balanced_accuracies[name]
                lines[-1] += f"   log p(y | z) {score:7.3f} nats, balanced accuracy {accuracy:5.1f} %"
        return "\n".join(lines)


class AveragedClassifier(ClassifierMixin, BaseEstimator):
    """The average of logistic regression, a linear M2 and label spreading, weighted by held-out labels.

    The weight of a classifier is its posterior probability, which is proportional to its prior (`PRIOR`)
    times the probability that it gives to the labels when they are held out in turn.

    - "logistic" learns from the labelled data alone.
    - "linear-m2" is `LinearM2`.
    - "label-spreading" is `SpreadLabels`.

    Args:
        neighbours: the number of neighbours of each datum in the graph along which labels spread.
        learn_class_prior: whether the linear M2 learns the class prior from all data. Otherwise its class
            prior holds the labels' frequencies.
        random_state: the seed of the division of the labels into folds.

    Attributes:
        classes_: the classes, sorted, `(C,)`.
        classifiers_: the fitted classifiers by name.
        choice_: the `Choice`.

    Example:
        >>> import numpy as np
        >>> z, y = np.arange(12.0)[:, None], np.array([0, -1, -1, -1, -1, 0, 1, -1, -1, -1, -1, 1])
        >>> AveragedClassifier(neighbours=2).fit(z, y).predict(z)
        array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    """

    def __init__(
        self,
        neighbours: int = NEIGHBOURS,
        *,
        learn_class_prior: bool = False,
        random_state: int = 0,
    ) -> None:
        self.neighbours = neighbours
        self.learn_class_prior = learn_class_prior
        self.random_state = random_state

    def fit(
        self, z: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None
    ) -> AveragedClassifier:
        """Fit the classifiers and weigh them.

        Args:
            z: latents in the decoder's scale, `(N, M)` (`decoder_scales`).
            y: classes `(N,)`, -1 for unlabelled data.
            sample_weight: the weight of each datum, `(N,)`. None means equal weights.
        """
        z = np.asarray(z, float)
        self.classes_ = np.unique(y[y != UNLABELLED])
        weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, float)
        folds = [*self._folds(y)]
        graph = LocalNeighbours(self.neighbours)(z) if folds else None
        held_out = {name: np.zeros((len(y), len(self.classes_))) for name in PRIOR}
        for fold in folds:
            shown = y.copy()
            shown[fold] = UNLABELLED
            for name, fitted in self._fitted(z, shown, weight, graph).items():
                spreads = isinstance(fitted, SpreadLabels)
                held_out[name][fold] = fitted.spread(fold) if spreads else fitted.predict_proba(z[fold])
        rows = np.concatenate(folds) if folds else np.empty(0, int)
        self.choice_ = self._choice({n: p[rows] for n, p in held_out.items()}, y[rows], weight[rows])
        self.classifiers_ = self._fitted(z, y, weight)
        return self

    def predict_proba(self, z: np.ndarray) -> np.ndarray:
        """Return the weighted mean of the classifiers' probabilities, `(N, C)`."""
        weights = self.choice_.weights
        z = np.asarray(z, float)
        return np.sum([weights[n] * fitted.predict_proba(z) for n, fitted in self.classifiers_.items()], 0)

    def predict(self, z: np.ndarray) -> np.ndarray:
        """Return the most probable class of each datum, `(N,)`."""
        return self.classes_[self.predict_proba(z).argmax(1)]

    def _folds(self, y: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the labelled data that are held out together. A class with one label keeps it."""
        classes, counts = np.unique(y[y != UNLABELLED], return_counts=True)
        several = np.flatnonzero(np.isin(y, classes[counts > 1]))
        if not len(several):
            return
        division = StratifiedKFold(
            min(FOLDS, counts[counts > 1].min()), shuffle=True, random_state=self.random_state
        )
        for _, held_out in division.split(several, y[several]):
            yield several[held_out]

    def _fitted(
        self, z: np.ndarray, y: np.ndarray, weight: np.ndarray, graph: Any = None
    ) -> dict[str, Any]:
        labelled = y != UNLABELLED
        logistic = LogisticRegression(C=0.3, max_iter=1000)
        return {
            "logistic": logistic.fit(z[labelled], y[labelled], weight[labelled]),
            "linear-m2": LinearM2(learn_class_prior=self.learn_class_prior).fit(z, y, weight),
            "label-spreading": SpreadLabels(self.neighbours).fit(z, y, weight, graph),
        }

    def _choice(self, held_out: Mapping[str, np.ndarray], y: np.ndarray, weight: np.ndarray) -> Choice:
        """Weigh the classifiers by the probabilities `(L, C)` that they gave to held-out labels `(L,)`."""
        log_scores, accuracies, log_weights = {}, {}, []
        for name, probabilities in held_out.items():
            of_label = probabilities[np.arange(len(y)), np.searchsorted(self.classes_, y)]
            log_p = np.log((1 - _UNIFORM) * of_label + _UNIFORM / len(self.classes_))
            log_weights.append(math.log(PRIOR[name]) + weight @ log_p)
            if len(y):
                log_scores[name] = float(np.average(log_p, weights=weight))
                predicted = self.classes_[probabilities.argmax(1)]
                accuracies[name] = float(np.mean([(predicted[y == c] == c).mean() for c in np.unique(y)]))
        weights = dict(zip(held_out, softmax(log_weights).tolist(), strict=True))
        return Choice(weights, log_scores, accuracies, len(y))
