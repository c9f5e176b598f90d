"""Labels spread to unlabelled data, from neighbour to neighbour in a latent space.

A network memorises a hundred labels long before it has learned the shape of the classes. The latent
space of a VAE that was trained on all data keeps the data of one class together. Labels spread there along
a graph of neighbours (`spread_labels`), and the models learn from the spread labels.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors
from sklearn.semi_supervised import LabelSpreading
from torch import Tensor

from pyrovae.data.checks import UNLABELLED
from pyrovae.errors import InputError

ALPHA = 0.9
"""The share of a datum's label distribution that comes from its neighbours in each step of spreading."""

NEIGHBOURS = 7
"""The number of neighbours of each datum in the graph along which labels spread."""


def spread_labels(
    z: Tensor,
    y: Tensor,
    neighbours: int = NEIGHBOURS,
    class_prior: Tensor | None = None,
    *,
    alpha: float = ALPHA,
) -> Tensor:
    """Label unlabelled data by the labels of their neighbours (Zhou et al. 2004).

    Args:
        z: latents, `(N, M)`, such as the posterior means of a VAE that was trained on all data.
        y: classes `(N,)`, -1 for unlabelled data.
        neighbours: the number of neighbours of each datum in the graph along which labels spread.
        class_prior: the class frequencies p(y), `(C,)`, if they are known. Each class then gets as many
            data as its frequency says (class mass normalisation, Zhu et al. 2003), so that no class takes
            over the data of others. None means no normalisation.
        alpha: the share of a datum's label distribution that comes from its neighbours, in (0, 1).

    Returns:
        The classes `(N,)`. Given labels stay; -1 marks data that no label has reached.

    Raises:
        InputError: no datum is labelled, or `class_prior` lacks a class of `y`.

    Example:
        >>> import torch
        >>> z = torch.tensor([[0.0], [1.0], [2.0], [3.0], [9.0], [10.0], [11.0], [12.0]])
        >>> spread_labels(z, torch.tensor([0, -1, -1, -1, -1, -1, -1, 1]), neighbours=3)
        tensor([0, 0, 0, 0, 1, 1, 1, 1])
    """
    given = y[y != UNLABELLED]
    if not len(given):
        raise InputError(
            f"all {len(y)} classes are {UNLABELLED}: there is no label to spread. Give at least one."
        )
    if class_prior is not None and int(given.max()) >= len(class_prior):
        raise InputError(
            f"class {int(given.max())} is given, but class_prior has {len(class_prior)} classes, counted "
            "from 0: give the frequency of each class."
        )
    with warnings.catch_warnings():
        # The order of the classes is settled long before the diffusion has converged.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = label_spreading(neighbours, alpha).fit(z.cpu().numpy(), y.cpu().numpy())
    arrived = torch.as_tensor(fitted.label_distributions_)
    classes = torch.as_tensor(fitted.classes_)
    reached = arrived.sum(1) > 0
    if class_prior is not None:
        arrived[reached] = normalise_class_mass(arrived[reached], class_prior.cpu()[classes])
    spread = classes[arrived.argmax(1)].to(y.dtype).where(reached, torch.tensor(UNLABELLED))
    return y.where(y != UNLABELLED, spread.to(y.device))


def normalise_class_mass(probabilities: Tensor, frequencies: Tensor, rounds: int = 20) -> Tensor:
    """Weight the classes so that their mean probabilities equal the given frequencies.

    Zhu et al. (2003) weight each class once. Here weighting and normalisation of the rows alternate, since
    each disturbs the other.

    Args:
        probabilities: class probabilities of N data, `(N, C)`.
        frequencies: the class frequencies, `(C,)`.
        rounds: the number of alternations.

    Returns:
        The weighted probabilities, `(N, C)`; each row sums to 1.
    """
    for _ in range(rounds):
        probabilities = probabilities * (frequencies / probabilities.mean(0))
        probabilities = probabilities / probabilities.sum(1, keepdim=True)
    return probabilities


def label_spreading(neighbours: int = NEIGHBOURS, alpha: float = ALPHA) -> LabelSpreading:
    """Make scikit-learn's `LabelSpreading` (Zhou et al. 2004) on the graph of `LocalNeighbours`.

    Args:
        neighbours: the number of neighbours of each datum in the graph.
        alpha: the share of a datum's label distribution that comes from its neighbours, in (0, 1).
    """
    return _OnSymmetricGraph(kernel=LocalNeighbours(neighbours), alpha=alpha, max_iter=300, tol=1e-9)


class _OnSymmetricGraph(LabelSpreading):
    def _get_kernel(self, X: np.ndarray, y: np.ndarray | None = None) -> scipy.sparse.csr_matrix:
        # scikit-learn would call kernel(X, X), where each datum is a neighbour of itself.
        return self.kernel(X, y)


class SpreadLabels(ClassifierMixin, BaseEstimator):
    """Label spreading as a classifier with weights and with sharper probabilities.

    In a graph that is all of one piece, a little of every label reaches every datum. So the distributions
    of spread labels are more even than the classes are uncertain. Here they are squared.

    Args:
        neighbours: the number of neighbours of each datum in the graph.

    Attributes:
        classes_: the classes, sorted, `(C,)`.
        spreading_: the fitted `label_spreading`.
    """

    def __init__(self, neighbours: int = NEIGHBOURS) -> None:
        self.neighbours = neighbours

    def fit(
        self, z: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None, graph: Any = None
    ) -> SpreadLabels:
        """Spread the labels.

        Args:
            z: latents, `(N, M)`.
            y: classes `(N,)`, -1 for unlabelled data.
            sample_weight: the weight of each datum, `(N,)`. The labels of a class have their mean weight,
                and the weight of unlabelled data is not used. None means equal weights.
            graph: the weights of `LocalNeighbours` among the data if they are known, `(N, N)`.
        """
        spreading = label_spreading(self.neighbours)
        if graph is not None:
            spreading.set_params(kernel=lambda *_: graph)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.spreading_ = spreading.fit(z, y)
        self.classes_ = spreading.classes_
        self._mass = np.ones(len(self.classes_))
        if sample_weight is not None:
            self._mass = np.array([sample_weight[y == c].mean() for c in self.classes_])
        return self

    def spread(self, rows: np.ndarray) -> np.ndarray:
        """Return the class probabilities of some of the data that were given to `fit`, `(B, C)`."""
        return self._sharpened(self.spreading_.label_distributions_[rows])

    def predict_proba(self, z: np.ndarray) -> np.ndarray:
        """Return the class probabilities of data, `(N, C)`. They are equal where no label has arrived."""
        with np.errstate(invalid="ignore"):  # scikit-learn divides 0 by 0 where no label has arrived
            return self._sharpened(self.spreading_.predict_proba(z))

    def predict(self, z: np.ndarray) -> np.ndarray:
        """Return the most probable class of each datum, `(N,)`."""
        return self.classes_[self.predict_proba(z).argmax(1)]

    def _sharpened(self, distributions: np.ndarray) -> np.ndarray:
        squared = (np.nan_to_num(distributions) * self._mass) ** 2
        total = squared.sum(1, keepdims=True)
        return np.where(total > 0, squared / np.where(total > 0, total, 1), 1 / len(self.classes_))


@dataclass(frozen=True)
class LocalNeighbours:
    """A sparse kernel for scikit-learn's `LabelSpreading`, with a scale of its own for each datum:

        w_ij = exp(-d_ij^2 / (s_i s_j)),    s_i the distance from i to its k-th neighbour

    (Zelnik-Manor & Perona 2004). The weight is 0 unless i is among the k nearest neighbours of j, or j
    among those of i. This graph is symmetric. scikit-learn's own graph of neighbours is not, and its labels
    cannot leave sparse regions.

    Args:
        neighbours: k, the number of neighbours.
    """

    neighbours: int = NEIGHBOURS

    def __call__(self, x: np.ndarray, other: np.ndarray | None = None) -> scipy.sparse.csr_matrix:
        """Compute the weights among data, or between data and other data.

        Args:
            x: the data, `(N, M)`.
            other: other data, `(P, M)`. None means the data themselves.

        Returns:
            The weights, `(N, P)`, or `(N, N)` if `other` is None.
        """
        k = min(self.neighbours, len(x) - 1)
        search = NearestNeighbors(n_neighbors=k).fit(x)
        distances, indices = search.kneighbors()  # without an argument, no datum is its own neighbour
        scales = distances[:, -1]
        if other is None:
            graph = _sparse(_weights(distances, scales[:, None], scales[indices]), indices, len(x))
            return graph.maximum(graph.T)
        distances, indices = search.kneighbors(other)
        return _sparse(_weights(distances, distances[:, -1:], scales[indices]), indices, len(x)).T.tocsr()


def _weights(distances: np.ndarray, *scales: np.ndarray) -> np.ndarray:
    smallest = np.finfo(distances.dtype).tiny  # equal data have scale 0
    return np.exp(-distances * distances / np.maximum(scales[0] * scales[1], smallest))


def _sparse(weights: np.ndarray, columns: np.ndarray, width: int) -> scipy.sparse.csr_matrix:
    rows = np.repeat(np.arange(len(weights)), weights.shape[1])
    shape = (len(weights), width)
    return scipy.sparse.csr_matrix((weights.ravel(), (rows, columns.ravel())), shape=shape)
