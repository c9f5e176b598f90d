"""The noise of an objective's gradient: its mean and variance over draws, for one minibatch.

Two examples: Reparameterised gradients have less noise than those of the score function. The noise of the
importance-weighted bound's gradient for the guide grows with K relative to the gradient itself, unless it
is doubly reparameterised (Rainforth et al. 2018; Tucker et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrovae import small_tables
from pyrovae.compute.devices import seeded
from pyrovae.compute.precision import in_64_bits
from pyrovae.errors import InputError
from pyrovae.objectives import Objective
from pyrovae.programs.checks import check_pair
from pyrovae.programs.devices import device_of
from pyrovae.programs.given import with_given
from pyrovae.programs.modes import buffers_kept, in_training
from pyrovae.programs.pair import ModelAndGuide, takes_pair
from pyrovae.programs.parameters import named_parameters, own_parameters
from pyrovae.programs.rows import Arguments


@dataclass(frozen=True)
class GradientVariance:
    """Moments of a gradient over repeated draws, of the loss in nats per datum.

    Attributes:
        mean: the mean gradient of each parameter, in the parameter's shape, in 64-bit on the CPU; complex
            for a complex parameter.
        variance: the unbiased variance of each element of the gradient, in the same shapes. For a complex
            parameter it is the sum of the variances of the real and the imaginary part.
        repeats: R, the number of gradients that were drawn.
    """

    mean: dict[str, Tensor]
    variance: dict[str, Tensor]
    repeats: int

    def of(self, *prefixes: str) -> GradientVariance:
        """Return the moments of the parameters whose names begin with a prefix.

        `of("posterior")` selects a VAE's guide. With a VampPrior, which owns the posterior, it is
        `of("prior.posterior")`.

        Raises:
            InputError: no name begins with a prefix.
        """
        names = [name for name in self.mean if name.startswith(prefixes)]
        if not names:
            raise InputError(f"no parameter begins with {prefixes}; there are {', '.join(self.mean)}.")
        mean, variance = ({name: part[name] for name in names} for part in (self.mean, self.variance))
        return GradientVariance(mean, variance, self.repeats)

    @property
    def std_error(self) -> dict[str, Tensor]:
        """The standard error of each element of `mean`."""
        return {name: (variance / self.repeats).sqrt() for name, variance in self.variance.items()}

    @property
    def total_variance(self) -> float:
        """The trace of the gradient's covariance: the mean squared distance of a draw from the mean."""
        return sum(variance.sum().item() for variance in self.variance.values())

    @property
    def signal_to_noise(self) -> float:
        """The length of the mean gradient divided by the root of `total_variance`.

        The mean's own noise, which makes it too long, is subtracted; the result is 0 if nothing is left.
        It is infinite for a gradient without noise, and NaN if that gradient is 0.
        """
        length = sum(mean.abs().square().sum().item() for mean in self.mean.values())
        signal = math.sqrt(max(0.0, length - self.total_variance / self.repeats))
        if self.total_variance == 0:
            return math.inf if signal else math.nan
        return signal / math.sqrt(self.total_variance)

    def summary(self) -> dict[str, Any]:
        """Return the figures to report, as plain numbers."""
        return {
            "total_variance": self.total_variance,
            "signal_to_noise": self.signal_to_noise,
            "num_parameters": sum(mean.numel() for mean in self.mean.values()),
            "repeats": self.repeats,
        }

    def __str__(self) -> str:
        return (
            f"gradient : total variance {self.total_variance:.4g}, signal-to-noise ratio "
            f"{self.signal_to_noise:.3g} ({self.summary()['num_parameters']:,} numbers in "
            f"{len(self.mean)} parameters, {self.repeats} draws)"
        )

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows: a row for each parameter."""
        parts = {
            name: GradientVariance({name: mean}, {name: self.variance[name]}, self.repeats)
            for name, mean in self.mean.items()
        }
        rows = [
            (
                name,
                f"{part.mean[name].numel():,}",
                f"{part.total_variance:.4g}",
                f"{part.signal_to_noise:.3g}",
            )
            for name, part in parts.items()
        ]
        return small_tables.html(
            ("parameter", "numbers", "total variance", "signal to noise"), rows, str(self)
        )


@takes_pair
def gradient_variance(
    objective: Objective,
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    repeats: int = 100,
    seed: int = 0,
) -> GradientVariance:
    """Measure the mean and variance of an objective's gradient over draws of the latents.

    Modules are in training mode, as these are the gradients of training: dropout, for example, is part of
    the noise. Modes, buffers, the caller's random stream, the parameters' `.grad` and Pyro's
    parameter store stay as they are.

    Args:
        objective: an objective with a `differentiable_loss`. The loss is divided by the number of data.
        pair: a pair whose programs are called as `model(x)`, or `model(x, y)` where `y` is given.
        x: the minibatch, `(B, *x_shape)`.
        y: classes `(B,)`. None means that the programs are called without classes.
        given: further arguments of both programs by name, as in `fit`. None means nothing.
        repeats: R, the number of gradients that are drawn.
        seed: the seed of the random draws. With the same seed two estimators that draw alike get the same
            noise.

    Returns:
        Moments by parameter, under the parameter's name in training. The gradient is 0 for a parameter
        that the loss does not depend on.

    Raises:
        InputError: `repeats` is below 2; the data are not usable; or the pair does not run on them, or has
            no parameter that requires a gradient.
    """
    if repeats < 2:
        raise InputError(f"repeats is {repeats}; a variance needs at least 2.")
    pair, data = with_given(pair, x, y, given)
    device = device_of(pair, otherwise=x.device)
    args, kwargs = arguments = data.to(device)
    with own_parameters(pair, hand_back=False), in_training(pair), buffers_kept(pair):
        with seeded(seed, device):
            check_pair(pair, *args, **kwargs)
            parameters = named_parameters(pair, *args, **kwargs)
        parameters = {name: value for name, value in parameters.items() if value.requires_grad}
        if not parameters:
            raise InputError(
                "no parameter of the pair requires a gradient: call requires_grad_() on those to train."
            )
        mean = {name: _in_64_bits(torch.zeros_like(p)) for name, p in parameters.items()}
        squares = {name: torch.zeros_like(value.abs()) for name, value in mean.items()}
        with seeded(seed, device):
            for count in range(1, repeats + 1):
                gradients = _gradients(objective, pair, arguments, parameters)
                for name, gradient in gradients.items():  # Welford: no difference of large sums
                    away = gradient - mean[name]
                    mean[name] += away / count
                    squares[name] += (away * (gradient - mean[name]).conj()).real
    variance = {name: (value / (repeats - 1)).cpu() for name, value in squares.items()}
    return GradientVariance({name: value.cpu() for name, value in mean.items()}, variance, repeats)


def _gradients(
    objective: Objective,
    pair: ModelAndGuide,
    arguments: Arguments,
    parameters: dict[str, Tensor],
) -> dict[str, Tensor]:
    args, kwargs = arguments
    with torch.enable_grad():
        loss = objective.differentiable_loss(pair.model, pair.guide, *args, **kwargs) / len(args[0])
    values = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return {name: _in_64_bits(value) for name, value in zip(parameters, values, strict=True)}


def _in_64_bits(values: Tensor) -> Tensor:
    return values.to(torch.cdouble) if values.is_complex() else in_64_bits(values)
