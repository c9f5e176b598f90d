"""A linear M2: a mixture of Gaussians with one component for each class, which share their covariance.

    for each datum n in plate `data` (N)
        y_n ~ Cat(pi)
        z_n ~ N(mu_{y_n}, S)        over (M,)

On the latents z of a linear decoder, x = W z + noise, this is M2 with linear maps. Its p(y | z) is that of
linear discriminant analysis. Expectation-maximisation fits it to labelled and unlabelled data together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import solve
from sklearn.base import BaseEstimator, ClassifierMixin

from pyrovae.data.checks import UNLABELLED


class LinearM2(ClassifierMixin, BaseEstimator):
    """A classifier of latents by a Gaussian for each class, fitted to all data by EM.

    The first step assigns unlabelled data to the nearest mean of a class.

    Args:
        prior_data: the number of data that the prior of S is worth. The prior is isotropic, with the mean
            variance of the data, so that S has an inverse also where data are few. 0 means no prior.
        learn_class_prior: whether pi is learned from all data. Otherwise it holds the labels' frequencies.
        max_iter: the largest number of steps of EM.
        tol: EM ends when no class probability changes by more than this.

    Attributes:
        classes_: the classes, sorted, `(C,)`.
        class_prior_: pi, `(C,)`.
        means_: mu, `(C, M)`.
        covariance_: S, `(M, M)`.
        n_iter_: the number of steps of EM.

    Example:
        >>> import numpy as np
        >>> z, y = np.array([[0.0], [0.1], [5.0], [5.2]]), np.array([0, -1, 1, -1])
        >>> LinearM2().fit(z, y).predict(z)
        array([0, 0, 1, 1])
    """

    def __init__(
        self,
        prior_data: float = 10.0,
        *,
        learn_class_prior: bool = False,
        max_iter: int = 50,
        tol: float = 1e-3,
    ) -> None:
        self.prior_data = prior_data
        self.learn_class_prior = learn_class_prior
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, z: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> LinearM2:
        """Fit the mixture.

        Args:
            z: latents, `(N, M)`.
            y: classes `(N,)`, -1 for unlabelled data.
            sample_weight: the weight of each datum, `(N,)`. A datum of weight 2 counts as two. None means
                equal weights.
        """
        labelled = y != UNLABELLED
        weight = np.ones(len(z)) if sample_weight is None else np.asarray(sample_weight, float)
        self.classes_, codes = np.unique(y[labelled], return_inverse=True)
        given = np.eye(len(self.classes_))[codes]
        self._start(z, labelled, given, weight)
        probabilities = np.empty((len(z), len(self.classes_)))
        for step in range(self.max_iter):
            before, probabilities = probabilities, self.predict_proba(z)
            probabilities[labelled] = given
            if step and np.abs(probabilities - before).max() <= self.tol:
                break
            self._maximise(z, probabilities, weight)
            self.n_iter_ = step + 1
        return self

    def predict_proba(self, z: np.ndarray) -> np.ndarray:
        """Return p(y | z), `(N, C)`."""
        directions = solve(self.covariance_, self.means_.T, assume_a="pos")
        log_p = z @ directions - 0.5 * (self.means_.T * directions).sum(0) + np.log(self.class_prior_)
        p = np.exp(log_p - log_p.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True)

    def predict(self, z: np.ndarray) -> np.ndarray:
        """Return the most probable class of each datum, `(N,)`."""
        return self.classes_[self.predict_proba(z).argmax(1)]

    def _start(self, z: np.ndarray, labelled: np.ndarray, given: np.ndarray, weight: np.ndarray) -> None:
        of_class = (given * weight[labelled, None]).sum(0)
        self.class_prior_ = of_class / of_class.sum()
        self.means_ = (given * weight[labelled, None]).T @ z[labelled] / of_class[:, None]
        mean = np.average(z, axis=0, weights=weight)
        self._isotropic = np.average((z - mean) ** 2, axis=0, weights=weight).mean() * np.eye(z.shape[1])
        self.covariance_ = self._isotropic

    def _maximise(self, z: np.ndarray, probabilities: np.ndarray, weight: np.ndarray) -> None:
        share = probabilities * weight[:, None]
        of_class = share.sum(0)
        self.means_ = share.T @ z / of_class[:, None]
        within: Any = (z.T * weight) @ z - (self.means_.T * of_class) @ self.means_
        prior = self.prior_data * self._isotropic
        self.covariance_ = (within + prior) / (weight.sum() + self.prior_data)
        if self.learn_class_prior:
            self.class_prior_ = of_class / of_class.sum()
