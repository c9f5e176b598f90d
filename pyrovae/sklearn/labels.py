"""The conversion of scikit-learn users' labels to the classes 0, 1, ..., C - 1 of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from pyrovae.data.checks import UNLABELLED
from pyrovae.errors import InputError


def given_labels(y: Any, num_data: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the labelled data. The values -1, "-1", None, NaN and masked values mean "unlabelled".

    Args:
        y: one label for each datum: an array, a list, or a series of pandas.
        num_data: the number of data.

    Returns:
        The labels of the labelled data, `(k,)`, and a mask that is true for these data, `(num_data,)`.

    Raises:
        InputError: the number of labels is not `num_data`, some labels are strings and some are not, or one
            is infinite.

    Example:
        >>> labels, given = given_labels(["cat", -1, "dog"], 3)
        >>> given.tolist()
        [True, False, True]
    """
    if y is None:
        raise InputError(
            "the classifier requires y to be passed, but the target y is None: give labels, "
            f"and {UNLABELLED} for unlabelled data."
        )
    missing = np.ravel(y.isna()) if hasattr(y, "isna") else False  # pandas has missing values of its own
    if isinstance(y, np.ma.MaskedArray):
        missing, y = np.ravel(np.ma.getmaskarray(y)), y.data
    if hasattr(y, "isna") and not isinstance(getattr(y, "dtype", np.dtype(object)), np.dtype):
        y = y.to_numpy(dtype=object)  # or else Int64 and boolean with missing values would become floats
    array = column_or_1d(np.array(y, dtype=object) if isinstance(y, list | tuple) else y, warn=True)
    if len(array) != num_data:
        raise InputError(f"X has {num_data} data and y has {len(array)} labels: give one for each datum.")
    if array.dtype.kind in "biuf":
        if np.isinf(array).any():
            raise InputError(
                f"y holds infinite labels: give classes, and {UNLABELLED} for unlabelled data."
            )
        given = ~((array == UNLABELLED) | (array != array) | missing)
    else:
        known = (value is not None and value == value for value in np.where(missing, None, array))
        given = np.array([*known]) & ~np.isin(array.astype(str), [str(UNLABELLED), "-1.0"])
    labels = array[given]
    if labels.dtype == object and not all(isinstance(label, str) for label in labels):
        if any(isinstance(label, str) for label in labels):
            raise InputError("some labels in y are strings and some are not: make all of them strings.")
        labels = np.array(labels.tolist())
    return labels, given


def encode_labels(y: Any, num_data: int) -> tuple[np.ndarray, Tensor]:
    """Number the classes in y.

    Args:
        y: one label for each datum; -1, "-1", None and NaN mean "unlabelled".
        num_data: the number of data.

    Returns:
        The classes, sorted, `(C,)`, and the number of each datum's class, `(num_data,)` int64, -1 for
        unlabelled data.

    Raises:
        InputError: there are fewer than 2 classes, or `given_labels` refuses y.
        ValueError: scikit-learn does not accept the labels as classes.

    Example:
        >>> classes, codes = encode_labels(["dog", -1, "cat"], 3)
        >>> classes.tolist(), codes
        (['cat', 'dog'], tensor([ 1, -1,  0]))
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
            f"y has 1 class only, {classes.tolist()[0]!r} ({UNLABELLED} means unlabelled): give labels of "
            "at least 2 classes."
        )
    codes = torch.full((num_data,), UNLABELLED)
    codes[torch.from_numpy(given)] = torch.from_numpy(numbers)
    return classes, codes


def codes_of(asked: Any, classes: np.ndarray, count: int) -> Tensor:
    """Look up the numbers of the classes that a user asks samples of.

    Args:
        asked: one class for all samples, or one for each, `(count,)`.
        classes: the known classes, sorted, `(C,)`.
        count: the number of samples.

    Returns:
        The numbers, `(count,)` int64.

    Raises:
        InputError: a class is not known, or `asked` has neither 1 nor `count` classes.

    Example:
        >>> codes_of("dog", np.array(["cat", "dog"]), 2)
        tensor([1, 1])
    """
    labels = np.asarray(asked)
    if labels.shape not in ((), (count,)):
        raise InputError(f"y has shape {labels.shape}: give one class, or {count}, one for each sample.")
    labels = np.broadcast_to(labels, (count,))
    if unknown := [label for label in labels.tolist() if label not in classes.tolist()]:
        raise InputError(f"class {unknown[0]!r} is not known; choose from {classes.tolist()}.")
    return torch.from_numpy(np.searchsorted(classes, labels.astype(classes.dtype)))
