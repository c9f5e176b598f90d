"""Pyro's distributions without the wrappers that declare events, masks and batch shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyro.distributions import ExpandedDistribution, MaskedDistribution
from torch.distributions import Independent

_WRAPPERS = (Independent, MaskedDistribution, ExpandedDistribution)


def layers_of(distribution: Any) -> Iterator[Any]:
    """Yield a distribution, then what it wraps, down to the distribution that has the parameters."""
    yield distribution
    while isinstance(distribution, _WRAPPERS):
        distribution = distribution.base_dist
        yield distribution


def base_of(distribution: Any) -> Any:
    """Return the distribution under all of Pyro's wrappers, such as `Independent`.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> base_of(dist.Normal(torch.zeros(3), 1.0).to_event(1).mask(False))
        Normal(loc: torch.Size([3]), scale: torch.Size([3]))
    """
    *_, base = layers_of(distribution)
    return base


def name_of(distribution: Any) -> str:
    """Return the class name of the distribution under all wrappers, for messages and diagrams."""
    return type(base_of(distribution)).__name__


def factors_of(distribution: Any) -> Any | None:
    """Split a distribution into independent univariate distributions, one for each dimension.

    Returns:
        A distribution whose batch shape ends with the event shape of the given one. None if the dimensions
        of an event are not independent, or if a mask lies around them.
    """
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return None if len(distribution.event_shape) else distribution


def has_mean(distribution: Any) -> bool:
    """Whether the distribution has a mean that is known and finite. A categorical distribution has none."""
    try:
        return bool(distribution.mean.isfinite().all())
    except (NotImplementedError, AttributeError):
        return False
