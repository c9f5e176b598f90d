"""Data with missing values: their observed elements alone enter the density.

A program takes the keyword `observed`, a tensor of `torch.bool` in the shape of the data, which is true
where a value was observed:

    pyro.sample("x", masked(self.likelihood(z), observed), obs=x)       in the model
    pyro.sample("z", self.posterior(filled(x, observed)))               in the guide

Encoders see 0 elsewhere; in a model with a standardisation, they see the mean of the training data.
So the bound that is trained is that of the observed elements (Mattei & Frellsen 2019). It does not depend
on the values that stand where one is missing; they may be NaN.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import MaskedDistribution, constraints
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import transform_to

from pyrovae.errors import InputError
from pyrovae.programs.distributions import factors_of, name_of


def filled(x: Tensor, observed: Tensor | None, at: Tensor | int = 0) -> Tensor:
    """Return the data with 0, or other values, in the place of missing ones.

    Args:
        x: the data, `(B, *x_shape)`.
        observed: true where a value was observed, `(B, *x_shape)`. None means that none is missing.
        at: what stands for a missing value, `x_shape` or a number, such as `centre_of(likelihood)`.

    Raises:
        InputError: `observed` is not a tensor of `torch.bool` in the shape of the data.

    Examples:
        >>> import torch
        >>> from pyrovae.distributions import filled
        >>> x = torch.tensor([[1.0, torch.nan]])
        >>> filled(x, ~x.isnan())
        tensor([[1., 0.]])
    """
    if observed is None:
        return x
    check_observed_elements(observed, x.shape)
    return x.where(observed, at if isinstance(at, Tensor) else x.new_full((), at))


def masked(distribution: TorchDistributionMixin, observed: Tensor | None) -> TorchDistributionMixin:
    """Return a distribution whose log density is that of the observed elements.

    Draws, mean and variance stay those of all elements.

    Args:
        distribution: a distribution over x whose elements are independent, such as
            `Normal(loc, scale).to_event(1)` or that of a likelihood of `pyrovae.likelihoods`.
        observed: true where a value was observed, `(B, *x_shape)`. None means that none is missing.

    Raises:
        InputError: `observed` is not a tensor of `torch.bool` in the shape of the data, or the elements of
            an event are not independent.

    Examples:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from pyrovae.distributions import masked
        >>> x = torch.tensor([[1.0, torch.nan]])
        >>> fn = dist.Normal(torch.zeros(1, 2), 1.0).to_event(1)
        >>> torch.equal(masked(fn, ~x.isnan()).log_prob(x), dist.Normal(0.0, 1.0).log_prob(x[:, 0]))
        True
    """
    if observed is None:
        return distribution
    factors, event_shape = factors_of(distribution), tuple(distribution.event_shape)
    if factors is None:
        raise InputError(
            f"a {name_of(distribution)} with event shape {event_shape} does not factorise over the "
            "elements of an event, so it cannot leave missing ones out: use a likelihood of independent "
            "elements, such as Gaussian, or let the program compute the density of the observed elements."
        )
    check_observed_elements(observed)
    batch_shape = observed.shape[: max(1, observed.dim() - len(event_shape))]
    check_observed_elements(observed, (*batch_shape, *event_shape))
    return _ObservedElements(factors, observed).to_event(len(event_shape))


def check_observed_elements(observed: Any, shape: tuple[int, ...] | None = None) -> None:
    """Refuse what does not say of each element of the data whether it was observed.

    Args:
        observed: the argument `observed`.
        shape: the shape of the data; None checks the type only.

    Raises:
        InputError: it is not a tensor of `torch.bool` in this shape.
    """
    if not isinstance(observed, Tensor) or observed.dtype != torch.bool:
        found = f"of type {observed.dtype}" if isinstance(observed, Tensor) else type(observed).__name__
        raise InputError(
            f"observed is {found}; expected a tensor of torch.bool in the shape of the data, true where a "
            "value was observed: for example ~x.isnan(), or mask.bool() for a mask of zeros and ones."
        )
    if shape is not None and observed.shape != torch.Size(shape):
        raise InputError(
            f"observed has shape {tuple(observed.shape)}; expected that of the data, {tuple(shape)}: for "
            "one mask for all data use mask.expand(x.shape)."
        )


class _ObservedElements(MaskedDistribution):
    """Univariate distributions of which the observed ones count. A missing value may be anything."""

    @constraints.dependent_property
    def support(self) -> Any:
        return _WhereObserved(self.base_dist.support, self._mask)

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(self._without_missing(value))

    def score_parts(self, value: Tensor) -> Any:
        return super().score_parts(self._without_missing(value))

    def _without_missing(self, value: Tensor) -> Tensor:
        # The density of a missing value is discarded. It must be finite, because the gradient of a density
        # that is not would be NaN even so.
        support = self.base_dist.support
        if support.is_discrete:
            inside = getattr(support, "lower_bound", 0)
        else:
            inside = transform_to(support)(torch.zeros((), device=value.device))
        return value.where(self._mask, inside.to(value.dtype) if isinstance(inside, Tensor) else inside)


class _WhereObserved(constraints.Constraint):
    """The constraint that observed values satisfy another one."""

    def __init__(self, observed_values: Any, observed: Tensor) -> None:
        self.observed_values, self.observed = observed_values, observed
        self.is_discrete = observed_values.is_discrete

    def check(self, value: Tensor) -> Tensor:
        return self.observed_values.check(value) | ~self.observed
