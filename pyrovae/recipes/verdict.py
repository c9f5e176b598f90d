"""The verdict at the end of a training: whether the latents tell something about the data.

The bound alone does not say so. A decoder that ignores z models the marginals of the pixels; the KL and the
information in z are then almost 0 (posterior collapse). A warning names the remedy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyrovae.compute.devices import seeded
from pyrovae.errors import InputError, cause
from pyrovae.evaluation import ActiveUnits, active_units
from pyrovae.objectives import ELBO
from pyrovae.programs.devices import device_of
from pyrovae.programs.given import with_given
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.rows import Arguments
from pyrovae.programs.sites import latent_sites
from pyrovae.programs.structure import Structure
from pyrovae.recipes.settings import Training

MOST_DATA = 500
"""The largest number of data that a verdict is measured on."""

ONE_BIT = math.log(2)
"""The information, in nats, that tells two equally large groups of data apart. Less is almost nothing."""

_DRAWS = 5  # of the latents of each datum, in all figures
_AT_ONCE = 50  # the number of data whose draws pass through the networks at once


@dataclass(frozen=True)
class Verdict:
    """What a training has come to, measured on up to 500 data.

    Attributes:
        elbo: the ELBO, in nats per datum. Without latents it is the reconstruction term. It is None if the
            latents belong to all data together.
        kl: the KL term, in nats per datum. None if no datum has latents.
        units: the number of units of each continuous latent, by site.
        informative: the number of those that carry information (see `ActiveUnits`), by site.
        information: the information that all units of a latent carry about a datum, in nats, by site. It is
            what `ActiveUnits` estimates, but no more than the KL, which is an upper bound.
        num_data: the number of data.
        held_out: whether they are validation data. Otherwise they are data of the training.
        warnings: what is wrong, each with its remedy.

    Example:
        >>> import torch
        >>> from pyrovae.recipes import About, Training, vae
        >>> x = torch.rand(50, 6).round()
        >>> fitted = vae(About.of(x), latent_dim=2, width=8).fit(x, training=Training(epochs=2))
        >>> fitted.verdict.units, fitted.verdict.num_data
        ({'z': 2}, 5)
    """

    elbo: float | None = None
    kl: float | None = None
    units: dict[str, int] = field(default_factory=dict)
    informative: dict[str, int] = field(default_factory=dict)
    information: dict[str, float] = field(default_factory=dict)
    num_data: int = 0
    held_out: bool = False
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        bound = "ELBO" if self.kl is not None else "log p(x | z)"
        figures = [
            f"{name} {value:.2f} nats per datum"
            for name, value in ((bound, self.elbo), ("KL", self.kl))
            if value is not None
        ]
        figures += [
            f"{self.informative[name]} of {count} units of {name} carry information "
            f"({self.information[name]:.2f} nats)"
            for name, count in self.units.items()
        ]
        kind = "validation" if self.held_out else "training"
        lines = [f"verdict on {self.num_data} {kind} data: {'; '.join(figures)}"] if figures else []
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def verdict_of(
    pair: ModelAndGuide,
    x: Tensor,
    *,
    given: Mapping[str, Any] | None = None,
    held_out: bool = False,
    training: Training | None = None,
    takes_objective: bool = True,
    beside: str = "",
) -> Verdict:
    """Measure what a training has come to. The caller's random streams do not change.

    The programs are called without classes, so the bound of a model of classes is that of unlabelled data.

    Args:
        pair: the trained pair.
        x: the data, prepared as the model takes them, `(N, *x_shape)`.
        given: what is given to the programs beside them, by name, or None.
        held_out: whether they are validation data.
        training: the settings of the training, on which the remedy depends.
        takes_objective: whether another objective can be chosen for the training.
        beside: what the model has beside the latents, such as "the class". Empty if nothing.

    Raises:
        InputError: the pair does not run on the data.
    """
    training = training or Training()
    device = device_of(pair, otherwise=x.device)
    bound_pair, data = with_given(pair, x, None, given)
    data = data.to(device)
    few = data.rows(slice(_AT_ONCE))
    with torch.no_grad(), evaluating(pair), seeded(training.seed, device):
        found = Structure(bound_pair, few.args, few.kwargs)
        inferred = [] if found.traces.guide is None else latent_sites(found.traces.guide)
        if any(found[name].scope == "global" for name in inferred):
            return Verdict(num_data=len(x), held_out=held_out)
        elbo, kl = _bound(bound_pair, data)
    units = _units(pair, x, given, training.seed) if inferred else None
    counts = {} if units is None else {name: values.numel() for name, values in units.variances.items()}
    informative = {} if units is None else units.informative_counts
    estimated = {} if units is None else units.total_information
    information = {name: max(0.0, min(value, kl)) for name, value in estimated.items()}
    warnings = tuple(_collapsed(information, training, takes_objective, beside))
    return Verdict(
        elbo, kl if inferred else None, counts, informative, information, len(x), held_out, warnings
    )


def _bound(pair: ModelAndGuide, data: Arguments) -> tuple[float, float]:
    """Return the ELBO and its KL term, in nats per datum."""
    objective, loss, kl = ELBO(num_particles=_DRAWS), 0.0, 0.0
    for start in range(0, num_data := len(data.args[0]), _AT_ONCE):
        part = data.rows(slice(start, start + _AT_ONCE))
        found = objective.evaluate(pair, *part.args, **part.kwargs)
        loss, kl = loss + float(found.loss), kl + float(found.terms["kl"])
    return -loss / num_data, max(0.0, kl / num_data)  # an estimate near 0 may fall below it


def _units(
    pair: ModelAndGuide, x: Tensor, given: Mapping[str, Any] | None, seed: int
) -> ActiveUnits | None:
    """Return the units of the continuous latents; None if there are none, or too few data."""
    try:
        return active_units(pair, x, given=given, num_samples=_DRAWS, seed=seed)
    except InputError:
        return None


def _collapsed(
    information: Mapping[str, float], training: Training, takes_objective: bool, beside: str
) -> Iterator[str]:
    """Yield a warning for each latent that carries less than one bit."""
    others = f" What the model knows about a datum is then in {beside}." if beside else ""
    for name, nats in information.items():
        if nats < ONE_BIT:
            yield (
                f"{name} carries almost nothing about the data, {nats:.2f} nats, where one bit is "
                f"{ONE_BIT:.2f} (posterior collapse): {_remedy(training, takes_objective)}.{others}"
            )


def _remedy(training: Training, takes_objective: bool) -> str:
    if training.beta > 1:
        return f"choose a smaller beta than {training.beta:g}, such as beta=1 (--beta 1)"
    if training.warm_up == 0 and not training.cycle:  # None is the default rise
        return "let beta rise from 0 over the first epochs, for example by warm_up=10 (--warm-up 10)"
    other = (
        "choose an objective with a floor under the KL, for example objective='free-bits', free_bits=0.5 "
        "(--objective free-bits --free-bits 0.5)"
    )
    if not takes_objective:
        other = "choose a smaller beta, such as beta=0.5 (--beta 0.5)"
    return (
        f"train for more epochs (--epochs), or {other}. If nothing helps, the data may have nothing in "
        "common that latents could carry"
    )


def explained(error: Exception) -> Verdict:
    """Return the verdict on a pair whose verdict could not be measured."""
    return Verdict(warnings=(f"no verdict could be measured: {cause(error)}.",))
