"""Detectors of outliers: data whose density is low."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import OutlierMixin

from pyrovae.compute.turns import reentered
from pyrovae.errors import InputError
from pyrovae.sklearn.base import RandomState
from pyrovae.sklearn.densities import ClosedFormPPCA, Density, TrainedDensity
from pyrovae.sklearn.inputs import Rows
from pyrovae.sklearn.parameters import WITHOUT_CLASSES


class LowDensity(OutlierMixin, Density):
    """A detector of outliers by a threshold of log p(x)."""

    contamination: float

    def _fit(self, X: ArrayLike, sample_weight: ArrayLike | None) -> tuple[Rows, np.ndarray | None]:
        if not 0 < self.contamination <= 0.5:
            raise InputError(
                f"contamination is {self.contamination!r}; expected the share of outliers in X, above 0 "
                "and at most 0.5."
            )
        rows, weight = super()._fit(X, sample_weight)
        self.offset_ = _threshold(self._ranked(rows), weight, self.contamination)
        return rows, weight

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Return log p(x) above the threshold, `score_samples(X) - offset_`, in nats.

        Args:
            X: data, `(n, features)` or `(n, C, H, W)`. NaN marks a missing value.

        Returns:
            The differences, `(n,)`; below 0 for outliers.
        """
        fitted = self._fitted()
        return fitted._ranked(fitted._validated(X)) - fitted.offset_

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return -1 for outliers, and 1 for other data, `(n,)`.

        Args:
            X: data, `(n, features)` or `(n, C, H, W)`. NaN marks a missing value.
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def _ranked(self, rows: Rows) -> np.ndarray:
        """Return log p(x), `(n,)`, without warnings about its error, which a comparison does not need."""
        with reentered(_without_warnings_of_khat):
            return np.asarray(self._scores(rows)[:, 0])


@contextmanager
def _without_warnings_of_khat() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="k-hat is above")
        yield


def _threshold(scores: np.ndarray, weight: np.ndarray | None, share: float) -> float:
    """Return a number with a share of the weight below it, halfway between two scores.

    The score above it is the least one that has more than the share at or below it.
    """
    order = np.argsort(scores)
    below = np.cumsum((np.ones_like(scores) if weight is None else weight)[order])
    place = int(np.searchsorted(below / below[-1], share + 1e-9, side="right"))
    above = scores[order[min(place, len(scores) - 1)]]
    lower = scores[scores < above - 1e-9 * (1 + abs(above))]  # the same score may differ by rounding
    return float((above + lower.max()) / 2) if len(lower) else float(above)


@WITHOUT_CLASSES.documented
class VAEOutlierDetector(LowDensity, TrainedDensity):
    """A detector of outliers by the density of a variational autoencoder.

    A datum is an outlier if its log p(x) is below a threshold, which `contamination` of the training data
    do not reach.

    All parameters from `latent_dim` on are options of the models, read from their recipes
    (`pyrovae.recipes`). None means the model's own default.

    Args:
        model: "vae", or "hvae" with two levels of latents.
        contamination: the share of outliers in the training data, above 0 and at most 0.5.
        likelihood: the likelihood p(x | z), as in `VAETransformer`.
        image_shape: the shape (C, H, W) of the images in flat data (n, C * H * W). It is not needed for
            data of shape (n, C, H, W).
        num_samples: K, the number of draws of z with which log p(x) of a datum is estimated.
        device: the device that trains and runs the model. "auto" means CUDA if it is available, else the
            CPU.
        random_state: the seed of all random draws. An int makes `fit` reproducible.
        verbose: whether to show progress bars.
        {options}

    Attributes:
        offset_: the threshold of log p(x), in nats.
        model_: the trained model, an `nn.Module` with its programs `model` and `guide`, on the CPU.
        history_: the `History` of the training.
        n_iter_: the number of epochs in `history_`.
        n_features_in_: the number of features of a datum.
        feature_names_in_: the names of the features, if X has names.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> from pyrovae import VAEOutlierDetector
        >>> X = load_wine().data
        >>> detector = VAEOutlierDetector(contamination=0.05, epochs=2, random_state=0).fit(X)
        >>> int((detector.predict(X) == -1).sum())
        8
    """

    @WITHOUT_CLASSES.taken
    def __init__(
        self,
        model: str = "vae",
        *,
        contamination: float = 0.1,
        likelihood: str = "auto",
        image_shape: Sequence[int] | None = None,
        num_samples: int = 500,
        device: str = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
        **options: Any,
    ) -> None:
        self.model = model
        self.contamination = contamination
        self.likelihood = likelihood
        self.image_shape = image_shape
        self.num_samples = num_samples
        self.device = device
        self.random_state = random_state
        self.verbose = verbose


class PPCAOutlierDetector(LowDensity, ClosedFormPPCA):
    """A detector of outliers by the exact density of probabilistic PCA.

    Args:
        latent_dim: the number of dimensions of z, below the number of features and of data.
        contamination: the share of outliers in the training data, above 0 and at most 0.5.
        standardise: whether to standardise each feature within the model, by its mean and scale in X.
        random_state: the seed of `sample`.

    Attributes:
        offset_: the threshold of log p(x), in nats.
        model_: the fitted `pyrovae.models.PPCA`, in 64-bit.
        n_features_in_: the number of features of a datum.
        feature_names_in_: the names of the features, if X has names.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> from pyrovae import PPCAOutlierDetector
        >>> X = load_wine().data
        >>> int((PPCAOutlierDetector(latent_dim=5, contamination=0.05).fit_predict(X) == -1).sum())
        8
    """

    def __init__(
        self,
        latent_dim: int = 10,
        *,
        contamination: float = 0.1,
        standardise: bool = True,
        random_state: RandomState = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.contamination = contamination
        self.standardise = standardise
        self.random_state = random_state
