"""Labels spread to unlabelled data, from neighbour to neighbour in a latent space.

A network learns a hundred labels by heart long before it has seen what the classes look like. The latent
space of a VAE that was trained on all data keeps the data of one class together. Labels spread there along
a graph of neighbours (`spread_labels`), and the models learn from the spread labels.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors
from sklearn.semi_supervised import LabelSpreading
from torch import Tensor

from pyrovae.data.checks import UNLABELLED
from pyrovae.errors import InputError


def spread_labels(z: Tensor, y: Tensor, neighbours: int = 10, class_prior: Tensor | None = None) -> Tensor:
    """Label unlabelled data by the labels of their neighbours (Zhou et al. 2004).

    Args:
        z: latents, `(N, M)`, such as the posterior means of a VAE that was trained on all data.
        y: classes `(N,)`, -1 for unlabelled data.
        neighbours: the number of neighbours of each datum in the graph along which labels spread.
        class_prior: the class frequencies p(y), `(C,)`, if they are known. Each class then gets as many
            data as its frequency says (class mass normalisation, Zhu et al. 2003), so that no class takes
            over the data of others. None means no normalisation.

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
        fitted = label_spreading(neighbours).fit(z.cpu().numpy(), y.cpu().numpy())
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


def label_spreading(neighbours: int = 10) -> LabelSpreading:
    """Make scikit-learn's `LabelSpreading` (Zhou et al. 2004) on the graph of `LocalNeighbours`."""
    return LabelSpreading(kernel=LocalNeighbours(neighbours), alpha=0.99, max_iter=300)


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

    neighbours: int = 10

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
