"""Pyro's distributions without the wrappers that declare events, masks and batch shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pyro.distributions import (
    Categorical,
    ExpandedDistribution,
    MaskedDistribution,
    OneHotCategorical,
    RelaxedOneHotCategoricalStraightThrough,
)
from torch import Tensor
from torch.distributions import (
    Distribution,
    ExpTransform,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    PowerTransform,
    TransformedDistribution,
    constraints,
)
from torch.distributions.transforms import ComposeTransform, IndependentTransform
from torch.nn.functional import one_hot

_WRAPPERS = (Independent, MaskedDistribution, ExpandedDistribution)
_NORMAL = (Normal, MultivariateNormal, LowRankMultivariateNormal)
_BOUNDED = (constraints.interval, constraints.half_open_interval, type(constraints.simplex))

MEAN_DRAWS = 100
"""The number of draws whose average stands for a mean without a closed form."""


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
    return _finite(distribution) is True


def mean_of(distribution: Any) -> Tensor | None:
    """Return a distribution's mean, `(*batch_shape, *event_shape)`; None if it has none.

    A mean without a closed form, such as that of a flow, is the average of `MEAN_DRAWS` draws.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> mean_of(dist.StudentT(torch.tensor([2.0, 3.0]), 1.0))
        tensor([1., 1.])
        >>> mean_of(dist.Cauchy(torch.zeros(2), 1.0)) is None
        True
    """
    try:
        mean: Tensor = distribution.mean
    except (NotImplementedError, AttributeError):
        if not _mean_exists(distribution):
            return None
        mean = distribution.sample() / MEAN_DRAWS
        for _ in range(MEAN_DRAWS - 1):  # one by one, since the draws may be images
            mean = mean + distribution.sample() / MEAN_DRAWS
    return mean if bool(mean.isfinite().all()) else None


def _mean_exists(distribution: Any) -> bool:
    """Whether a distribution has a mean, also one without a closed form."""
    base = base_of(distribution)
    if (finite := _finite(base)) is not None:
        return finite
    if isinstance(base, MixtureSameFamily):
        return _mean_exists(base.component_distribution)
    if isinstance(noise := getattr(base, "base", None), Distribution):  # what a flow transforms
        return _mean_exists(noise)
    if not isinstance(base, TransformedDistribution) or _is_bounded(base.support):
        return True
    start = base_of(base.base_dist)
    # exp, and powers, may turn a finite mean into an infinite one. That of exp(normal) is finite.
    parts = [type(part) for part in _parts_of(base.transforms)]
    growing = [part for part in parts if issubclass(part, ExpTransform | PowerTransform)]
    exponential_of_normal = growing == [ExpTransform] and isinstance(start, _NORMAL)
    return _mean_exists(start) and (not growing or exponential_of_normal)


def _finite(distribution: Any) -> bool | None:
    """Whether a mean in closed form is finite; None if there is no closed form."""
    try:
        return bool(distribution.mean.isfinite().all())
    except (NotImplementedError, AttributeError):
        return None


def _is_bounded(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, _BOUNDED)


def _parts_of(transforms: Any) -> Iterator[Any]:
    for transform in transforms:
        if isinstance(transform, ComposeTransform):
            yield from _parts_of(transform.parts)
        elif isinstance(transform, IndependentTransform):
            yield from _parts_of([transform.base_transform])
        else:
            yield transform


def is_class(distribution: Any) -> bool:
    """Whether the values of a distribution are classes, as whole numbers or as one-hot vectors."""
    kinds = Categorical | OneHotCategorical | RelaxedOneHotCategoricalStraightThrough
    return isinstance(base_of(distribution), kinds)


def in_form_of(distribution: Any, classes: Tensor) -> Tensor:
    """Return classes, whole numbers `(*leading,)`, in the form of a distribution's: perhaps one-hot."""
    base = base_of(distribution)
    if isinstance(base, Categorical):
        return classes
    return one_hot(classes, base.event_shape[-1]).to(base.probs)


def class_mode(distribution: Any) -> Tensor:
    """Return the most probable value of a distribution of classes, `(*batch_shape, *event_shape)`.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> class_mode(dist.OneHotCategorical(torch.tensor([0.2, 0.5, 0.3])))
        tensor([0., 1., 0.])
    """
    mode = in_form_of(distribution, base_of(distribution).probs.argmax(-1))
    return mode.expand(torch.Size((*distribution.batch_shape, *distribution.event_shape)))
