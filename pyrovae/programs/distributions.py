"""Pyro's distributions without the wrappers that declare events, masks and batch shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pyro.distributions import (
    ExpandedDistribution,
    MaskedDistribution,
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategoricalStraightThrough,
)
from pyro.distributions.transforms import LowerCholeskyAffine, Permute
from pyro.distributions.transforms.householder import ConditionedHouseholder
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Categorical,
    Distribution,
    ExpTransform,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    PowerTransform,
    ReshapeTransform,
    TransformedDistribution,
    constraints,
)
from torch.distributions.transforms import ComposeTransform, IndependentTransform
from torch.nn.functional import one_hot

from pyrovae.programs.noise import CommonNoise

_WRAPPERS = (Independent, MaskedDistribution, ExpandedDistribution)
_NORMAL = (Normal, MultivariateNormal, LowRankMultivariateNormal)
_AFFINE = (AffineTransform, LowerCholeskyAffine, Permute, ReshapeTransform, ConditionedHouseholder)
_ROUNDED = (RelaxedBernoulliStraightThrough, RelaxedOneHotCategoricalStraightThrough)
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


def closed_mean(distribution: Any) -> Tensor | None:
    """Return a mean in closed form, `(*batch_shape, *event_shape)`; None if there is no formula.

    An affine transform of a variable has the transform of its mean. The mean may be infinite or NaN.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> twice = dist.transforms.AffineTransform(1.0, 2.0)
        >>> closed_mean(dist.TransformedDistribution(dist.Normal(torch.tensor([0.0, 3.0]), 1.0), [twice]))
        tensor([1., 7.])
    """
    try:
        mean: Tensor | None = distribution.mean
    except (NotImplementedError, AttributeError):
        mean = _mean_of_affine(distribution)
    return mean


def _mean_of_affine(distribution: Any) -> Tensor | None:
    """Return the mean of wrapped distributions, and of affine transforms, that state none themselves."""
    shape = torch.Size((*distribution.batch_shape, *distribution.event_shape))
    wrapped = isinstance(distribution, _WRAPPERS)
    start, transforms = (distribution.base_dist, []) if wrapped else _transformed(distribution)
    if start is None or not all(isinstance(part, _AFFINE) for part in _parts_of(transforms)):
        return None
    if (mean := closed_mean(start)) is None:
        return None
    for transform in transforms:
        mean = transform(mean)
    return mean.expand(shape)


def _transformed(distribution: Any) -> tuple[Any | None, list[Any]]:
    """Return what a distribution transforms, as a flow does, and by what; None if it transforms nothing."""
    start = getattr(distribution, "base_dist", getattr(distribution, "base", None))
    return start if isinstance(start, Distribution) else None, list(getattr(distribution, "transforms", ()))


def mean_of(distribution: Any) -> Tensor | None:
    """Return a distribution's mean, `(*batch_shape, *event_shape)`; None if it has none.

    A mean without a closed form, such as that of a flow, is the average of `MEAN_DRAWS` draws. All members
    of the batch get the same noise with the same seed, so the mean of one does not depend on the others.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> mean_of(dist.StudentT(torch.tensor([2.0, 3.0]), 1.0))
        tensor([1., 1.])
        >>> mean_of(dist.Cauchy(torch.zeros(2), 1.0)) is None
        True
    """
    mean = closed_mean(distribution)
    if mean is None:
        if not _mean_exists(distribution):
            return None
        with CommonNoise(distribution.batch_shape, seed=0):
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
    start, transforms = _transformed(base)
    if start is None or (isinstance(base, TransformedDistribution) and _is_bounded(base.support)):
        return True
    start = base_of(start)
    # exp, and powers, may turn a finite mean into an infinite one. That of exp(normal) is finite.
    parts = [type(part) for part in _parts_of(transforms)]
    growing = [part for part in parts if issubclass(part, ExpTransform | PowerTransform)]
    exponential_of_normal = growing == [ExpTransform] and isinstance(start, _NORMAL)
    return _mean_exists(start) and (not growing or exponential_of_normal)


def _finite(distribution: Any) -> bool | None:
    """Whether a mean in closed form is finite; None if there is no closed form."""
    mean = closed_mean(distribution)
    return None if mean is None else bool(mean.isfinite().all())


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


def is_discrete(distribution: Any) -> bool:
    """Whether the values of a distribution are discrete: classes, counts, or numbers that are 0 or 1."""
    try:
        support = distribution.support
    except (NotImplementedError, AttributeError):  # a distribution may not say
        support = None
    return isinstance(base_of(distribution), _ROUNDED) or getattr(support, "is_discrete", False) is True


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


def mode_of(distribution: Any) -> Tensor:
    """Return the most probable value of a discrete distribution, `(*batch_shape, *event_shape)`.

    Where there is no formula, as for a multinomial distribution, it is the most probable of `MEAN_DRAWS`
    draws, which are made as in `mean_of`.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> mode_of(dist.Bernoulli(torch.tensor([0.2, 0.5, 0.9])))
        tensor([0., 0., 1.])
    """
    if is_class(distribution):
        return class_mode(distribution)
    base, shape = base_of(distribution), torch.Size((*distribution.batch_shape, *distribution.event_shape))
    if isinstance(base, Bernoulli | RelaxedBernoulliStraightThrough):  # torch's own mode is NaN at 1/2
        return (base.probs > 0.5).to(base.probs).expand(shape)
    try:
        mode: Tensor = base.mode
    except (NotImplementedError, AttributeError):
        mode = _best_draw(base)
    return mode.expand(shape)


def _best_draw(distribution: Any) -> Tensor:
    with CommonNoise(distribution.batch_shape, seed=0):
        draws = torch.stack([distribution.sample() for _ in range(MEAN_DRAWS)])
    best = distribution.log_prob(draws).argmax(0, keepdim=True)
    best = best.reshape(*best.shape, *[1] * len(distribution.event_shape))
    return draws.gather(0, best.expand(1, *draws.shape[1:])).squeeze(0)
