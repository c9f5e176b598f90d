"""Labels of some of the data: -1 stands for unlabelled data, as in scikit-learn."""

from __future__ import annotations

from torch import Tensor, full_like

from pyrovae.data.checks import UNLABELLED
from pyrovae.errors import InputError


def only_labels_of(indices: Tensor, y: Tensor) -> Tensor:
    """Keep the labels of the chosen data and hide all others.

    Args:
        indices: the indices of the data that stay labelled, `(L,)`. Negative indices count from the end.
        y: the classes of all data, `(N,)`. They are not changed.

    Returns:
        The classes `(N,)`, with -1 where the label is hidden.

    Raises:
        InputError: an index does not point into `y`.

    Example:
        >>> import torch
        >>> only_labels_of(torch.tensor([1, 3]), torch.tensor([4, 5, 6, 7]))
        tensor([-1,  5, -1,  7])
    """
    if len(indices) and not -len(y) <= int(indices.min()) <= int(indices.max()) < len(y):
        raise InputError(
            f"the indices run from {int(indices.min())} to {int(indices.max())}, but there are {len(y)} "
            f"classes: give indices from 0 to {len(y) - 1}."
        )
    kept = full_like(y, UNLABELLED)
    indices = indices.to(y.device)
    kept[indices] = y[indices]
    return kept


def data_per_label(y: Tensor) -> float:
    """Return N / L, the number of data divided by the number of labelled data.

    `fit` minimises a mean over all data. A term of the labelled data alone becomes a mean over them when it
    is multiplied by N / L. Its weight then means the same for any number of data and labels.

    Args:
        y: classes `(N,)`, -1 for unlabelled data.

    Raises:
        InputError: no datum is labelled.

    Example:
        >>> import torch
        >>> data_per_label(torch.tensor([0, -1, -1, 1, -1, -1]))
        3.0
    """
    labelled = int((y != UNLABELLED).sum())
    if not labelled:
        raise InputError(
            f"all {len(y)} classes are {UNLABELLED}, which means unlabelled: give the class of at least "
            "one datum."
        )
    return len(y) / labelled
