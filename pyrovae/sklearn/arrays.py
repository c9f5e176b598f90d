"""Between arrays as scikit-learn's users have them and what a model is given: features and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from pyrovae import data
from pyrovae.data.checks import UNLABELLED
from pyrovae.errors import InputError


@dataclass(frozen=True, eq=False)
class Scaling:
    """Between features in X's units, `(n, features)` float64, and those of a model.

    Attributes:
        likelihood: one of `LIKELIHOODS`. A Gaussian's features are standardised, others lie in [0, 1].
        offset: of each feature, `(features,)`.
        scale: of each feature, `(features,)`.
    """

    likelihood: str
    offset: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, array: np.ndarray, x_shape: tuple[int, ...], likelihood: str) -> Scaling:
        """The one that suits data `(n, features)`, or images of shape (C, H, W), channel by channel."""
        if likelihood != "gaussian":
            return cls(likelihood, np.zeros(1), np.ones(1))
        pixels = int(np.prod(x_shape[1:])) if len(x_shape) == 3 else 1
        columns = array.reshape(len(array), -1, pixels).swapaxes(1, 2).reshape(-1, array.shape[1] // pixels)
        scaler = StandardScaler().fit(columns)  # which leaves constant features their scale
        return cls(likelihood, scaler.mean_.repeat(pixels), scaler.scale_.repeat(pixels))

    def done(self, array: np.ndarray) -> Tensor:
        """To the model's: `(n, features)`, float32."""
        x = torch.from_numpy(((array - self.offset) / self.scale).astype(np.float32))
        return data.to_levels(x) if self.likelihood == "categorical" else x

    def undone(self, array: np.ndarray) -> np.ndarray:
        """Back from what a model generates, in X's units; 256 levels already are grey values."""
        return array * self.scale + self.offset


def given_labels(y: Any, num_data: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels among y that are none of -1, "-1", None and NaN, `(k,)`, and where they are, `(n,)`.

    Raises:
        InputError: not one label for each of `num_data` data, or labels of several kinds.
    """
    if y is None:
        raise InputError(
            "the classifier requires y to be passed, but the target y is None: give labels, "
            f"{UNLABELLED} where there is none."
        )
    missing = np.ravel(y.isna()) if hasattr(y, "isna") else False  # pandas has its own
    array = column_or_1d(np.array(y, dtype=object) if isinstance(y, list | tuple) else y, warn=True)
    if len(array) != num_data:
        raise InputError(f"X has {num_data} data and y has {len(array)} labels: give one for each datum.")
    if array.dtype.kind in "biuf":
        if np.isinf(array).any():
            raise InputError("y holds infinite labels: give classes, -1 where there is none.")
        given = ~((array == UNLABELLED) | (array != array))
    else:
        known = (value is not None and value == value for value in np.where(missing, None, array))
        given = np.array([*known]) & ~np.isin(array.astype(str), [str(UNLABELLED), "-1.0"])
    labels = array[given]
    if labels.dtype == object and not all(isinstance(label, str) for label in labels):
        if any(isinstance(label, str) for label in labels):
            raise InputError("some labels in y are strings and some are not: make them of one kind.")
        labels = np.array(labels.tolist())
    return labels, given


def encode_labels(y: Any, num_data: int) -> tuple[np.ndarray, Tensor]:
    """The classes in y, `(C,)`, and y as their numbers, `(n,)` int64, -1 for unlabelled.

    Raises:
        InputError: fewer than 2 classes, or what `given_labels` raises; ValueError: no classes at all.
    """
    labels, given = given_labels(y, num_data)
    if not given.any():
        raise InputError(
            f"all {num_data} data are unlabelled ({UNLABELLED}): give the classes of some of them."
        )
    check_classification_targets(labels)
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise InputError(
            f"y has 1 class only, {classes.tolist()[0]!r} ({UNLABELLED} stands for unlabelled): "
            "give labels of at least 2."
        )
    codes = torch.full((num_data,), UNLABELLED)
    codes[torch.from_numpy(given)] = torch.from_numpy(numbers)
    return classes, codes


def codes_of(asked: Any, classes: np.ndarray, count: int) -> Tensor:
    """The numbers of one class or of `count` classes, `(count,)` int64.

    Raises:
        InputError: one is not among `classes` `(C,)`, or there are neither 1 nor `count`.
    """
    labels = np.asarray(asked)
    if labels.shape not in ((), (count,)):
        raise InputError(f"y has shape {labels.shape}: give one class, or {count}, one for each sample.")
    labels = np.broadcast_to(labels, (count,))
    if unknown := [label for label in labels.tolist() if label not in classes.tolist()]:
        raise InputError(f"class {unknown[0]!r} is not known; there are {classes.tolist()}.")
    return torch.from_numpy(np.searchsorted(classes, labels.astype(classes.dtype)))
