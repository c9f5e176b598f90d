"""The interface of objectives. An objective returns a bound: a loss with a gradient, and its terms."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from pyro.infer import JitTrace_ELBO, JitTraceEnum_ELBO, JitTraceMeanField_ELBO, TraceTailAdaptive_ELBO
from pyro.infer.elbo import ELBO as PyroELBO
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.programs.pair import ModelAndGuide


@dataclass(frozen=True)
class Bound:
    """The value of an objective on a minibatch, in nats, summed over its data.

    Attributes:
        loss: minus the bound, with every weight applied, as a tensor that has a gradient.
        terms: sums by name, without weights and without gradients: `reconstruction`, `kl`, and each
            observed site under its own name, or several joined by commas if they have one term together.
            elbo = reconstruction - kl, and the observed sites add up to `reconstruction`. Empty for an
            objective of Pyro.
        added: the names of the terms that the objective adds to the ELBO, such as `q(y | x)`.
    """

    loss: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    added: Collection[str] = ()


class Objective(Protocol):
    """An objective of this library, which `fit` minimises and `pyro.infer.SVI` can step by."""

    def evaluate(self, pair: ModelAndGuide, *args: Any, **kwargs: Any) -> Bound:
        """Run the pair on the arguments, once for each particle, and return the bound."""
        ...

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Return the loss of `evaluate` alone, with the arguments of Pyro's objectives."""
        ...


class PyroObjective(Protocol):
    """An objective that reports no terms, such as Pyro's `TraceMeanField_ELBO`."""

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Return the loss, summed over the batch, as a tensor that has a gradient."""
        ...


@dataclass(frozen=True)
class WithoutTerms:
    """An adapter from an objective of Pyro to one of this library. Its bounds have no terms.

    Args:
        objective: the objective of Pyro.
    """

    objective: PyroObjective

    def evaluate(self, pair: ModelAndGuide, *args: Any, **kwargs: Any) -> Bound:
        """Return a bound with the loss of Pyro's objective, without terms."""
        return Bound(self.differentiable_loss(pair.model, pair.guide, *args, **kwargs))

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Return the loss of Pyro's objective."""
        return self.objective.differentiable_loss(model, guide, *args, **kwargs)


def as_objective(objective: Objective | PyroObjective) -> Objective:
    """Return an objective that has `evaluate`: the given one, or Pyro's wrapped without terms.

    Raises:
        InputError: `objective` is a class, has no differentiable loss, or compiles its loss by itself.

    Example:
        >>> from pyro.infer import TraceMeanField_ELBO
        >>> as_objective(TraceMeanField_ELBO()).evaluate  # doctest: +ELLIPSIS
        <bound method WithoutTerms.evaluate of ...>
    """
    if isinstance(objective, PyroELBO) and not _has_a_loss(objective):
        raise InputError(
            f"objective is Pyro's {type(objective).__name__}, which computes gradients by itself "
            "and has no loss to differentiate: use ELBO(), which takes latents that are not "
            "reparameterised too, ScoreFunctionELBO() or IWAE(50), or train with pyro.infer.SVI."
        )
    if isinstance(objective, JitTrace_ELBO | JitTraceEnum_ELBO | JitTraceMeanField_ELBO):
        raise InputError(
            f"objective is Pyro's {type(objective).__name__}, which compiles the loss of one minibatch "
            'with its weights as constants: use ELBO() with fit(..., compile="on").'
        )
    if inspect.isclass(objective) or not hasattr(objective, "differentiable_loss"):
        raise InputError(f"objective is {objective!r}; expected an object such as ELBO() or IWAE(50).")
    if hasattr(objective, "evaluate"):
        return cast(Objective, objective)
    return WithoutTerms(objective)


def _has_a_loss(objective: PyroELBO) -> bool:
    # The loss of TraceTailAdaptive_ELBO is infinite, and only its gradient has a meaning.
    return hasattr(objective, "differentiable_loss") and not isinstance(objective, TraceTailAdaptive_ELBO)


def description(objective: Objective | PyroObjective) -> str:
    """Return an objective's name and settings, as in `IWAE(num_particles=50, ...)`.

    The settings are the numbers and strings that the objective keeps under the names of its arguments. Its
    weights are left out.
    """
    if isinstance(objective, WithoutTerms):
        return description(objective.objective)
    names = dict.fromkeys(["num_particles", *inspect.signature(type(objective)).parameters])
    names.pop("max_plate_nesting", None)  # Pyro's objectives find it out when they run
    kept = {name: getattr(objective, name, None) for name in names}
    weights = weights_of(objective)
    settings = [
        f"{name}={value}"
        for name, value in kept.items()
        if isinstance(value, int | float | str) and name not in weights
    ]
    return f"{type(objective).__name__}({', '.join(settings)})"


def weights_of(objective: Objective | PyroObjective) -> dict[str, float]:
    """Return the weights that are an objective's own, by the names in its attribute `own_weights`."""
    if isinstance(objective, WithoutTerms):
        return weights_of(objective.objective)
    return {name: float(getattr(objective, name)) for name in getattr(objective, "own_weights", ())}
