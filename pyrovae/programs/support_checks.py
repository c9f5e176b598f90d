"""Checks that values lie in the support of the distribution that scores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyrovae.data.checks import UNLABELLED
from pyrovae.errors import InputError
from pyrovae.programs.distributions import base_of

# The remedies for data that a likelihood cannot have produced.
_REMEDIES: dict[type, str] = {
    dist.Bernoulli: "its pixels are 0 or 1: binarise them (afresh for each minibatch with "
    "transform=pyrovae.data.binarise, once with pyrovae.data.binarise_static, on the command line "
    "with --binarise), or use the ContinuousBernoulli likelihood for grey values",
    dist.ContinuousBernoulli: "its pixels lie in [0, 1]: scale them",
    dist.Categorical: "its pixels are the levels 0, 1, ..., 255: convert grey values with "
    "pyrovae.data.to_levels",
}


def check_same_support(name: str, in_model: Any, in_guide: Any, value: Tensor) -> None:
    """Refuse a latent that the guide may draw outside of its support in the model.

    Args:
        name: the name of the site.
        in_model: the site's distribution in the model.
        in_guide: the site's distribution in the guide.
        value: the guide's draw.

    Raises:
        InputError: the guide has fewer classes than the model, or the larger support.
    """
    families = [base_of(fn) for fn in (in_model, in_guide)]
    classes = [family.probs.shape[-1] for family in families if isinstance(family, dist.Categorical)]
    if len(classes) == 2 and classes[1] < classes[0]:
        raise InputError(
            f"site '{name}' has {classes[0]} classes in the model and {classes[1]} in the guide, which "
            "never draws the others: give both the same number."
        )
    try:
        allowed = in_model.support.check(value).all() and not _reaches_beyond(in_guide, in_model, value)
    except (NotImplementedError, ValueError):  # a distribution that does not know its support
        return
    if not allowed:
        model, guide = (type(family).__name__ for family in families)
        raise InputError(
            f"site '{name}' is {model} in the model, with support {_each(in_model)}, but {guide} in the "
            f"guide, with support {_each(in_guide)}: the draws of the guide must have a density under the "
            "model, so use a distribution in the guide whose support is not larger."
        )


# Numbers between and beyond the usual bounds. No bound is among them, because two supports may agree but
# for their end points.
_PROBES = (-3.0, -2.0, -1.5, -1.0, -0.5, 0.25, 0.5, 1.5, 2.0, 3.0)


def _reaches_beyond(in_guide: Any, in_model: Any, value: Tensor) -> bool:
    """Whether some number is in the guide's support but not in the model's. Vectors are not compared."""
    drawn, supported = _each(in_guide), _each(in_model)
    if isinstance(base_of(in_guide), dist.Delta):  # it draws one point only
        return False
    if drawn.is_discrete != supported.is_discrete:
        return True
    if drawn.event_dim or supported.event_dim:
        return False
    if isinstance(drawn, constraints.integer_interval):
        ends = (torch.as_tensor(end, device=value.device) for end in (drawn.lower_bound, drawn.upper_bound))
        return not all(supported.check(end).all() for end in ends)
    points = torch.as_tensor(_PROBES).to(value.device).reshape(-1, *[1] * value.dim())
    return bool((drawn.check(points) & ~supported.check(points)).any())


def _each(fn: Any) -> Any:
    """Return the support of a single value, if the values of an event are independent."""
    support = fn.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def check_observed(
    name: str, site: Mapping[str, Any], again: Callable[[], Mapping[str, Any]] | None = None
) -> None:
    """Refuse observed values of the wrong shape, or outside of the support of their distribution.

    A support that depends on a latent, as in `Uniform(z - 1, z + 1)`, is not held against the values, and
    neither is that of a distribution with `validate_args=False`.

    Args:
        name: the name of the site.
        site: the site, a node of the model's trace.
        again: a function that returns the site with other draws of the latents. It is called if values lie
            outside of the support.

    Raises:
        InputError: the values do not fit the distribution. The message says how to change them.
    """
    fn, value = site["fn"], site["value"]
    expected = tuple(fn.event_shape)
    found = tuple(value.shape[value.dim() - len(expected) :])
    if found != expected:
        raise InputError(
            f"the model makes data of shape {expected} at site '{name}', but was given data of shape "
            f"{found}: build its networks for the shape of the data."
        )
    if getattr(base_of(fn), "_validate_args", None) is False:
        return
    outside = ~fn.support.check(value)
    if outside.any() and again is not None and not _equal(fn.support, again()["fn"].support):
        _without_validation(fn)
        return
    if outside.any():
        rows = value.flatten(1) if value.dim() > 1 else value.unsqueeze(-1)
        row = rows[outside.nonzero()[0, -1]] if outside.dim() == 1 else rows.flatten()
        family = base_of(fn)
        remedies = (remedy for kind, remedy in _REMEDIES.items() if expected and isinstance(family, kind))
        remedy = next(remedies, f"its values must satisfy {family.support}")
        if row.isnan().any():
            remedy = (
                "NaN has no density, also where a mask discards it (its gradient would be NaN): if these "
                "values are missing, use masked(distribution, observed) of pyrovae.distributions"
            )
        elif not expected and isinstance(family, dist.Categorical):
            remedy = f"its classes are 0, 1, ..., {family.probs.shape[-1] - 1}"
            if value.is_floating_point():
                remedy += f" (of type {value.dtype}, where {UNLABELLED} is not unlabelled: use y.long())"
        raise InputError(
            f"{int(outside.sum())} of {outside.numel()} data lie outside the support of the "
            f"{type(family).__name__} likelihood at site '{name}' (values from {row.min():g} to "
            f"{row.max():g} in the first of them): {remedy}."
        )


def _equal(one: Any, other: Any) -> bool:
    """Whether two supports are the same, bounds included."""
    if type(one) is not type(other):
        return False
    for name, value in vars(one).items():
        of_other = getattr(other, name)
        if isinstance(value, constraints.Constraint):
            alike = _equal(value, of_other)
        elif isinstance(value, Tensor | float | int):
            alike = torch.equal(torch.as_tensor(value), torch.as_tensor(of_other))
        else:
            alike = True
        if not alike:
            return False
    return True


def _without_validation(fn: Any) -> None:
    """Let a distribution, and those inside of it, score values outside of their support."""
    while fn is not None:
        fn._validate_args = False
        fn = getattr(fn, "base_dist", None)
