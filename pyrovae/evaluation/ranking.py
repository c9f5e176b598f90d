"""Rankings of latent dimensions, by their posterior means `(N, M)`."""

from __future__ import annotations

from torch import Tensor

from pyrovae.errors import check_counts


def most_active_dimensions(means: Tensor, count: int) -> list[int]:
    """Rank dimensions by how much their posterior means vary over the data.

    Args:
        means: the posterior means, `(N, M)`.
        count: the number of dimensions to return, at most.

    Returns:
        The dimensions, the most varied first.

    Raises:
        InputError: the count is below 1.

    Example:
        >>> import torch
        >>> most_active_dimensions(torch.tensor([[0.0, 1.0], [0.1, -1.0]]), 1)
        [1]
    """
    return _ranked(means.var(0), count)


def most_telling_dimensions(means: Tensor, y: Tensor, count: int) -> list[int]:
    """Rank dimensions by the share of the variance of posterior means that lies between the classes.

    Args:
        means: the posterior means, `(N, M)`.
        y: the classes of the data, `(N,)`.
        count: the number of dimensions to return, at most.

    Returns:
        The dimensions, the most telling first.

    Raises:
        InputError: the count is below 1.

    Example:
        >>> import torch
        >>> z = torch.tensor([[0.0, 1.0], [3.0, 1.1], [0.1, -1.0], [3.1, -1.1]])
        >>> most_telling_dimensions(z, torch.tensor([0, 0, 1, 1]), 1)
        [1]
    """
    between, y = means.new_zeros(means.shape[1]), y.to(means.device)
    for label in y.unique():
        members = means[y == label]
        between += len(members) / len(means) * (members.mean(0) - means.mean(0)).square()
    return _ranked(between / means.var(0, unbiased=False).clamp(min=1e-12), count)


def _ranked(scores: Tensor, count: int) -> list[int]:
    check_counts(dimensions=count)
    order: list[int] = scores.argsort(descending=True)[:count].tolist()
    return order
