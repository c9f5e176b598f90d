"""Choose data at random: a training and a test part, or a few labelled data of each class."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.arrays import Labels, as_classes
from pyrovae.data.checks import check_seed
from pyrovae.errors import InputError, check_counts, check_numbers


def stratified_split(
    y: Labels | None, test_fraction: float = 0.2, seed: int = 0, *, n: int | None = None
) -> tuple[Tensor, Tensor]:
    """Split data into a training and a test part in which each class keeps its share.

    If a class is too small for that, or there are fewer test data than classes, one datum of each class is
    kept for training, and the test data are drawn from all others, whatever their class.

    Args:
        y: classes `(N,)`; None for a random split of `n` data without classes.
        test_fraction: the fraction of the data in the test part, above 0 and below 1.
        seed: the seed of the split, from 0 to 2**32 - 1.
        n: the number of data where `y` is None.

    Returns:
        The indices of the training part and those of the test part, int64 and shuffled. Each datum is in
        exactly one of them. The global random state does not change.

    Raises:
        InputError: the fraction or the seed is out of range, or there are too few data.

    Example:
        >>> train, test = stratified_split([0, 0, 0, 0, 1, 1, 1, 1], test_fraction=0.5)
        >>> len(train), len(test)
        (4, 4)
    """
    from sklearn.model_selection import train_test_split  # slow to import

    check_seed(seed)
    check_numbers(test_fraction=test_fraction)
    if not 0 < test_fraction < 1:
        raise InputError(f"test_fraction is {test_fraction}: choose one strictly between 0 and 1.")
    if n is not None:
        check_counts(0, n=n)
    if y is None and n is None:
        raise InputError("y is None, and so the split needs n, the number of data: give y or n.")
    labels = None if y is None else as_classes(y, "y").numpy()
    rows = np.arange(n or 0) if labels is None else np.arange(len(labels))
    if labels is not None and not _can_be_stratified(labels, test_fraction):
        return _split_with_small_classes(labels, test_fraction, seed)
    if math.ceil(test_fraction * len(rows)) >= len(rows):
        raise _too_few(len(rows), test_fraction, "no datum is left for training")
    parts = train_test_split(rows, test_size=test_fraction, random_state=seed, stratify=labels)
    return torch.from_numpy(parts[0]), torch.from_numpy(parts[1])


def _can_be_stratified(labels: np.ndarray, test_fraction: float) -> bool:
    counts = np.unique(labels, return_counts=True)[1]
    num_test = math.ceil(test_fraction * len(labels))
    return min(counts) > 1 and min(num_test, len(labels) - num_test) >= len(counts)


def _split_with_small_classes(labels: np.ndarray, test_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Keep one datum of each class for training, and draw the test data from all others."""
    order = np.random.default_rng(seed).permutation(len(labels))
    kept = order[np.unique(labels[order], return_index=True)[1]]
    others = order[~np.isin(order, kept)]
    test = others[: math.ceil(test_fraction * len(labels))]
    if not len(test):
        raise _too_few(len(labels), test_fraction, "each class has a single member, which training needs")
    return torch.from_numpy(order[~np.isin(order, test)]), torch.from_numpy(test)


def _too_few(num_data: int, test_fraction: float, reason: str) -> InputError:
    what = "one sample" if num_data == 1 else f"{num_data} data"
    return InputError(
        f"{what} cannot be split, with a fraction of {test_fraction} held out: {reason}. Give "
        "more data, or another fraction."
    )


def labels_per_class(y: Labels, per_class: int, seed: int = 0, *, option: str = "per_class") -> Tensor:
    """Choose the same number of data from each class, for example those that keep their labels.

    Args:
        y: classes `(N,)`.
        per_class: the number of data to choose from each class.
        seed: the seed of the choice, from 0 to 2**32 - 1. With the same seed, a larger choice contains a
            smaller one.
        option: the name under which the user gave the number, for messages.

    Returns:
        The indices of the chosen data, int64 `(per_class * classes,)`, sorted. The global random state
        does not change.

    Raises:
        InputError: `per_class` is below 1, or larger than a class; or the seed is out of range.

    Example:
        >>> labels_per_class([5, 2, 5, 2], per_class=2)
        tensor([0, 1, 2, 3])
    """
    check_seed(seed)
    labels = as_classes(y, "y").numpy()
    check_counts(0, **{option: per_class})
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if not 1 <= per_class <= len(members):
            raise InputError(
                f"{option} is {per_class}, but class {label} has {len(members)} members: "
                f"choose from 1 to {len(members)}."
            )
        chosen.append(generator.permutation(members)[:per_class])
    return torch.from_numpy(np.sort(np.concatenate(chosen)))
