"""The rows that users give: arrays, images, data frames, sparse matrices, missing values, weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils.validation import _check_sample_weight
from torch import Tensor
from torch.utils.data import Dataset

from pyrovae.data.arrays import unmasked
from pyrovae.errors import InputError

Rows = Any
"""Data `(n, features)`: an array, or a sparse matrix in CSR format."""

MOST_VALUES = 2**20
"""The number of values of the data that are dense at the same time when a fitted model is asked."""


def as_array(X: Any, missing: bool) -> Any:
    """Return X without a mask: masked values become NaN, or are refused where none may be missing.

    A tensor may be on any device, and may require a gradient.
    """
    if isinstance(X, Tensor):
        return X.detach().cpu().numpy()
    if not isinstance(X, np.ma.MaskedArray):
        return X
    return np.ma.filled(X.astype(float), np.nan) if missing else unmasked(X, "X")


def shape_of_datum(X: Any) -> tuple[int, ...]:
    """Return the shape of one datum in X, such as `(features,)` or `(C, H, W)`."""
    return tuple(getattr(X, "shape", None) or np.asarray(X).shape)[1:]


def flat(X: Any) -> Any:
    """Return X with one dimension for all features. A table stays what it is, with its names."""
    shape = shape_of_datum(X)
    return np.asarray(X).reshape(-1, math.prod(shape)) if len(shape) > 1 else X


def bounds_of(rows: Rows) -> tuple[float, float]:
    """Return the least and the greatest value that is not missing."""
    if issparse(rows):
        return float(rows.min()), float(rows.max())
    return float(np.nanmin(rows)), float(np.nanmax(rows))


def completed(rows: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
    """Return the data with observed values of the same feature in the place of missing ones.

    Training does not learn these values. They only let it start at the right means and scales.

    Args:
        rows: the data, `(n, features)`, in which NaN marks a missing value.
        names: the names of the features, for messages; empty where they have none.

    Raises:
        InputError: a feature has no value.
    """
    filled = rows.copy()
    for number, column in enumerate(filled.T):
        missing = np.isnan(column)
        if missing.all():
            raise InputError(
                f"feature {number}{f' ({names[number]})' if len(names) else ''} has no value in any of the "
                f"{len(rows)} data: leave this column out."
            )
        column[missing] = np.resize(column[~missing], missing.sum())
    return filled


def with_same_moments(rows: Rows, weight: np.ndarray | None) -> np.ndarray:
    """Return a few data that have the mean and the covariance of all, for a fit that depends on no more.

    The triangle R of a QR decomposition has the covariance R^T R. It grows by parts of the data, so a
    sparse matrix never becomes dense as a whole. The data returned are the mean plus and minus each row of
    R, stretched so that their covariance is the same.

    Args:
        rows: the data, `(n, features)`.
        weight: the weight of each datum, `(n,)`. None means equal weights.

    Returns:
        At most two data for each feature, `(m, features)` float64.
    """
    share = np.ones(rows.shape[0]) if weight is None else weight
    share = share / share.sum()
    mean = np.asarray(rows.T @ share)
    triangle, start = np.empty((0, rows.shape[1])), 0
    for part in parts(rows):
        of_part = np.sqrt(share[start : start + len(part), None])
        start += len(part)
        longer = np.vstack([triangle, of_part * (part - mean)])
        triangle = np.asarray(np.linalg.qr(longer, mode="r"))
    away = math.sqrt(len(triangle)) * triangle
    return np.concatenate([mean + away, mean - away])


def parts(rows: Rows) -> Iterator[np.ndarray]:
    """Yield the rows in dense parts of at most `MOST_VALUES` values."""
    size = max(1, MOST_VALUES // rows.shape[1])
    for start in range(0, rows.shape[0], size):
        part = rows[start : start + size]
        yield part.toarray() if issparse(part) else part


def weight_of(rows: Rows, sample_weight: Any) -> np.ndarray | None:
    """Return the weight of each datum, `(n,)` float64, or None if no weights are given.

    Args:
        rows: the data, `(n, features)`.
        sample_weight: the user's weights, or None.

    Raises:
        ValueError: there is not one number of at least 0 for each datum.
        InputError: all weights are 0.
    """
    if sample_weight is None:
        return None
    if not np.asarray(sample_weight, dtype=float).any():
        raise InputError("sample_weight is zero for all data: give some of them a weight above 0.")
    return np.asarray(_check_sample_weight(sample_weight, rows, ensure_non_negative=True, dtype=np.float64))


def kept_by(weight: np.ndarray | None) -> np.ndarray | slice:
    """Return the index of the data whose weight is not 0."""
    return slice(None) if weight is None or weight.all() else np.flatnonzero(weight)


class SparseRows(Dataset[Tensor]):
    """The rows of a sparse matrix as a dataset: each is made dense when it is read.

    Args:
        rows: the matrix in CSR format, `(n, features)`.
        x_shape: the shape of a datum.
    """

    def __init__(self, rows: Any, x_shape: tuple[int, ...]) -> None:
        self.rows, self.x_shape = rows, x_shape

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def __getitem__(self, index: int) -> Tensor:
        start, end = self.rows.indptr[index], self.rows.indptr[index + 1]
        x = np.zeros(self.rows.shape[1], np.float32)
        np.add.at(x, self.rows.indices[start:end], self.rows.data[start:end])
        return torch.from_numpy(x).view(self.x_shape)
