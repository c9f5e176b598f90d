"""Learning from few labels: what they add to a training, and how they spread to the other data.

A hundred labels are learned by heart long before a network has seen what classes look like. What helps
is that M1's latent space keeps a class together: labels spread there from neighbour to neighbour
(`spread_labels`), and the models learn from what arrives.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading
from sklearn.svm import SVC, LinearSVC
from torch import Tensor, nn

from pyrovae.compute.devices import seeded
from pyrovae.data.checks import UNLABELLED
from pyrovae.errors import InputError
from pyrovae.generation import latent_means
from pyrovae.models import CPCVAE, M1M2, M2, PCVAE
from pyrovae.objectives import Objective, SupervisedELBO
from pyrovae.priors import VampPrior
from pyrovae.programs.pair import Program
from pyrovae.schedules import Schedule, linear_warm_up


@dataclass(frozen=True)
class Supervision:
    """How much classes weigh beside the bound, all as means: the loss of the data is

        mean over all of (-ELBO) - weight * mean over the labelled of log p

    so that a weight means the same for any number of data, labels or batch size.

    Attributes:
        alpha: of log q(y | x) in M2 and M1+M2 (Kingma et al. 2014 have 0.1). If all data are labelled,
            as where labels spread, nothing else trains q(y | x), and under Adam alpha's size has no effect.
        prediction: lambda, of log p(y | z) in PC-VAE and CPC-VAE, and of its repetition log p(y | zbar).
        consistency: of the agreement of p(y | z) and p(y | zbar) in CPC-VAE, a mean over the unlabelled;
            the constraint's labelled half is the repetition above, at lambda.
        aggregate: of the frequencies of predicted classes in CPC-VAE, as well.
        delay: epochs before the constraints of PC-VAE and CPC-VAE count.
        warm_up: epochs over which they rise from then on.

    Raises:
        InputError: one of them is negative.
    """

    alpha: float = 0.1
    prediction: float = 25.0
    consistency: float = 25.0
    aggregate: float = 25.0
    delay: float = 0.0
    warm_up: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:
                raise InputError(f"{name} is {value}; it must be at least 0.")

    def schedule(self, weight: float) -> Schedule:
        """A constraint's weight over the epochs."""
        if not self.warm_up:
            return lambda epoch: weight if epoch >= self.delay else 0.0
        return linear_warm_up(self.warm_up, end=weight, delay=self.delay)


@dataclass(frozen=True)
class Task:
    """What `fit` trains, and by which objective."""

    model: Program
    guide: Program
    objective: Objective | None = None
    weights: dict[str, Schedule] | None = None

    def options(self) -> dict[str, Any]:
        """As arguments of `fit`."""
        objective = {} if self.objective is None else {"objective": self.objective}
        return objective | {"weights": self.weights}


def training_task(
    model: nn.Module, y: Tensor | None, supervision: Supervision, jointly: bool = False
) -> Task:
    """The programs and the objective that train a model on data with classes.

    Args:
        model: one of this package's.
        y: classes `(N,)`, -1 where there is none; None for models without.
        supervision: how much they weigh.
        jointly: of M1+M2 train both layers, on images. Otherwise it is the upper one, on draws of z1.

    Raises:
        InputError: there is no label to learn from.
    """
    if not isinstance(model, M2 | M1M2 | PCVAE):
        return Task(model.model, model.guide)  # type: ignore[arg-type]
    if y is None or not (labelled := (y != UNLABELLED).sum().item()):
        raise InputError(f"{type(model).__name__} learns classes: give the class of some data at least.")
    per_label = len(y) / labelled
    if isinstance(model, M2 | M1M2):
        trained = model.m2 if isinstance(model, M1M2) and not jointly else model
        return Task(trained.model, trained.guide, SupervisedELBO(supervision.alpha * per_label))
    weights = {"y": supervision.schedule(supervision.prediction * per_label)}
    if not isinstance(model, CPCVAE):
        return Task(model.model, model.guide, weights=weights)
    weights["y_again"] = weights["y"]
    if labelled < len(y):
        weights["consistency"] = supervision.schedule(supervision.consistency)
        weights["aggregate"] = supervision.schedule(supervision.aggregate)
    return Task(model.constrained_model, model.guide, weights=weights)


def only_labels_of(indices: Tensor, y: Tensor) -> Tensor:
    """The classes `(N,)` of the data with these indices; -1, for unlabelled, everywhere else.

    Raises:
        InputError: there are not so many data.
    """
    if len(indices) and not -len(y) <= int(indices.min()) <= int(indices.max()) < len(y):
        raise InputError(
            f"indices from {int(indices.min())} to {int(indices.max())} do not point into {len(y)} classes."
        )
    kept = torch.full_like(y, UNLABELLED)
    kept[indices] = y[indices]
    return kept


@dataclass(frozen=True)
class LocalNeighbours:
    """A kernel for scikit-learn's `LabelSpreading`: near neighbours only, each at its own scale,

        w_ij = exp(-d_ij^2 / (s_i s_j)),    s_i the distance from i to its k-th neighbour

    where i is among j's k nearest or j among i's (Zelnik-Manor & Perona 2004). The graph is symmetric,
    unlike scikit-learn's own of neighbours, from whose sparse regions no label ever leaves.
    """

    neighbours: int = 10

    def __call__(self, x: np.ndarray, other: np.ndarray | None = None) -> scipy.sparse.csr_matrix:
        """Weights among `x` `(N, M)`, or from `x` to `other` `(P, M)`: `(N, N)` or `(N, P)`."""
        k = min(self.neighbours, len(x) - 1)
        search = NearestNeighbors(n_neighbors=k).fit(x)
        distances, indices = search.kneighbors()  # nobody is its own neighbour
        scales = distances[:, -1]
        if other is None:
            graph = _sparse(_weights(distances, scales[:, None], scales[indices]), indices, len(x))
            return graph.maximum(graph.T)
        distances, indices = search.kneighbors(other)
        return _sparse(_weights(distances, distances[:, -1:], scales[indices]), indices, len(x)).T.tocsr()


def _weights(distances: np.ndarray, *scales: np.ndarray) -> np.ndarray:
    smallest = np.finfo(distances.dtype).tiny  # data that are all alike have no scale
    return np.exp(-distances * distances / np.maximum(scales[0] * scales[1], smallest))


def _sparse(weights: np.ndarray, columns: np.ndarray, width: int) -> scipy.sparse.csr_matrix:
    rows = np.repeat(np.arange(len(weights)), weights.shape[1])
    shape = (len(weights), width)
    return scipy.sparse.csr_matrix((weights.ravel(), (rows, columns.ravel())), shape=shape)


def label_spreading(neighbours: int = 10) -> LabelSpreading:
    """scikit-learn's classifier by diffusion of labels over a graph (Zhou et al. 2004), as M1 uses it."""
    return LabelSpreading(kernel=LocalNeighbours(neighbours), alpha=0.99, max_iter=300)


def _scaled(classifier: Any) -> Pipeline:
    return make_pipeline(StandardScaler(), classifier)


M1_CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "logistic": lambda: _scaled(LogisticRegression(max_iter=2000)),
    "linear-svm": lambda: _scaled(LinearSVC(random_state=0)),
    "rbf-svm": lambda: _scaled(SVC()),
    "label-spreading": label_spreading,
}
"""Classifiers of latents, which turn a VAE into M1. The last one learns from unlabelled data too, as the
transductive SVM does that Kingma et al. (2014) put there."""


def fit_m1_classifier(name: str, z: np.ndarray, y: np.ndarray, neighbours: int = 10) -> Any:
    """One of `M1_CLASSIFIERS`, fitted to latents `(N, M)` and classes `(N,)`, -1 where there is none.
    Along a graph of so many neighbours labels spread, if they do."""
    spreads = name == "label-spreading"
    classifier = label_spreading(neighbours) if spreads else M1_CLASSIFIERS[name]()
    rows = slice(None) if spreads else y != UNLABELLED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(z[rows], y[rows])


def spread_labels(z: Tensor, y: Tensor, neighbours: int = 10, class_prior: Tensor | None = None) -> Tensor:
    """Classes for unlabelled data, from those of their neighbours in latent space.

    Args:
        z: latents, `(N, M)`, such as the posterior means of a VAE trained on all data.
        y: classes `(N,)`, -1 where there is none.
        neighbours: of each datum in the graph along which labels spread.
        class_prior: p(y) `(C,)`, if it is known: classes are weighted until as many data go to each as it
            says (class mass normalisation, Zhu et al. 2003), lest one flood its surroundings.

    Returns:
        `(N,)`: given classes as they are, others as they arrived, -1 where none did.

    Raises:
        InputError: there is no label to spread, or a class that `class_prior` does not have.
    """
    given = y[y != UNLABELLED]
    if not len(given):
        raise InputError(f"all {len(y)} classes are {UNLABELLED}: there is no label to spread.")
    if class_prior is not None and int(given.max()) >= len(class_prior):
        raise InputError(f"class {int(given.max())} is given; class_prior has {len(class_prior)}, from 0.")
    with warnings.catch_warnings():
        # Fully converged or not, the ranking of the classes has long been settled.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = label_spreading(neighbours).fit(z.cpu().numpy(), y.cpu().numpy())
    arrived = torch.as_tensor(fitted.label_distributions_)
    classes = torch.as_tensor(fitted.classes_)
    reached = arrived.sum(1) > 0
    if class_prior is not None:
        arrived[reached] = _with_frequencies(arrived[reached], class_prior.cpu()[classes])
    spread = classes[arrived.argmax(1)].to(y.dtype).where(reached, torch.tensor(UNLABELLED))
    return y.where(y != UNLABELLED, spread.to(y.device))


def _with_frequencies(probabilities: Tensor, frequencies: Tensor, rounds: int = 20) -> Tensor:
    """Rows `(N, C)` with a weight on each class such that their mean has the given frequencies."""
    for _ in range(rounds):
        probabilities = probabilities * (frequencies / probabilities.mean(0))
        probabilities = probabilities / probabilities.sum(1, keepdim=True)
    return probabilities


def starting_point(
    model: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    vae: Any = None,
    spread: bool = False,
    neighbours: int = 10,
    seed: int = 0,
) -> Tensor | None:
    """Put a new model where its training starts, and say which classes it learns.

    M1+M2 takes over the VAE's parameters; any other model's pixels start at their frequencies, and a
    VampPrior's pseudo-inputs at data.

    Args:
        model: one of this package's.
        x: the data it is trained on, `(N, *x_shape)`.
        y: their classes `(N,)`, -1 where there is none; None for models without.
        vae: a VAE trained on these data, for M1+M2 and for labels to spread over.
        spread: whether they do.
        neighbours: of each datum in the graph along which they do.
        seed: of the choice of data for pseudo-inputs.

    Returns:
        `y`, or what became of it.
    """
    if isinstance(model, M1M2):
        assert vae is not None
        model.vae.load_state_dict(vae.state_dict())
    else:
        model.likelihood.start_at_marginals(x)  # type: ignore[operator, union-attr]
        if isinstance(prior := getattr(model, "prior", None), VampPrior):
            with seeded(seed):
                prior.start_at(x)
    if y is None or not spread:
        return y
    assert vae is not None
    return spread_labels(latent_means(vae, x), y, neighbours)
