"""How noisy an objective's gradient is: its mean and variance over draws, for one minibatch.

It settles by numbers what is usually said in words: that reparameterised gradients are less noisy than
the score function's, and that the importance-weighted bound's gradient for the guide gets noisier as K
grows, unless it is doubly reparameterised (Rainforth et al. 2018; Tucker et al. 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrovae.compute.devices import seeded
from pyrovae.data.checks import check_data
from pyrovae.errors import InputError
from pyrovae.objectives import Objective
from pyrovae.programs.checks import check_pair
from pyrovae.programs.devices import device_of
from pyrovae.programs.modes import buffers_kept, in_training
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.parameters import named_parameters, own_parameters


@dataclass(frozen=True)
class GradientVariance:
    """Moments of a gradient over repeated draws, of the loss in nats per datum.

    Attributes:
        mean: the gradient's mean by parameter, in 64-bit on the CPU, in the parameter's shape.
        variance: the unbiased variance of each of its elements, in the same shapes.
        repeats: R, how many gradients were drawn.
    """

    mean: dict[str, Tensor]
    variance: dict[str, Tensor]
    repeats: int

    def of(self, *prefixes: str) -> GradientVariance:
        """The same of the parameters whose names begin so: `of("posterior")` are those of a VAE's guide
        (`of("prior.posterior")` where it has a VampPrior, to which the posterior belongs first).

        Raises:
            InputError: there are none.
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
        """The length of the mean gradient over the root of `total_variance`.

        The mean's own noise, which makes it too long, is subtracted; 0 where nothing is left. Infinite
        for a gradient without noise, NaN for one that is 0.
        """
        length = sum(mean.square().sum().item() for mean in self.mean.values())
        signal = math.sqrt(max(0.0, length - self.total_variance / self.repeats))
        if self.total_variance == 0:
            return math.inf if signal else math.nan
        return signal / math.sqrt(self.total_variance)

    def summary(self) -> dict[str, Any]:
        """The figures to report, as plain numbers."""
        return {
            "total_variance": self.total_variance,
            "signal_to_noise": self.signal_to_noise,
            "num_parameters": sum(mean.numel() for mean in self.mean.values()),
            "repeats": self.repeats,
        }


def gradient_variance(
    objective: Objective,
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor | None = None,
    *,
    repeats: int = 100,
    seed: int = 0,
) -> GradientVariance:
    """Mean and variance of an objective's gradient over draws of the latents, for the same minibatch.

    Modules are in training mode, since these are training's gradients: where there is dropout, that is
    part of the noise. Modes, buffers, the caller's random stream, the parameters' `.grad` and Pyro's
    parameter store stay as they are.

    Args:
        objective: whose `differentiable_loss` is taken, per datum.
        model: a Pyro program `model(x)` (or `model(x, y)` where `y` is given).
        guide: a Pyro program with the model's latent sites.
        x: the minibatch, `(B, *x_shape)`.
        y: its classes, `(B,)`, if the programs are to be called with them.
        repeats: R, how many gradients are drawn.
        seed: of the draws; the same seed gives two estimators the same noise, if they draw alike.

    Returns:
        Moments by parameter, under the names that training has for them. A parameter that the loss
        does not depend on has a gradient of 0.

    Raises:
        InputError: fewer than 2 repeats, data that are not usable, a pair that does not run on them, or
            one without a parameter that asks for a gradient.
    """
    if repeats < 2:
        raise InputError(f"repeats is {repeats}; a variance needs at least 2.")
    check_data(x, y)
    device = device_of(pair, otherwise=x.device)
    args = tuple(values.to(device) for values in (x, y) if values is not None)
    with own_parameters(hand_back=False), in_training(pair), buffers_kept(pair):
        with seeded(seed, device):
            check_pair(pair, *args)
            parameters = named_parameters(pair, *args)
        parameters = {name: value for name, value in parameters.items() if value.requires_grad}
        if not parameters:
            raise InputError("the pair has no parameter that asks for a gradient (requires_grad).")
        mean = {name: torch.zeros_like(p, dtype=torch.double) for name, p in parameters.items()}
        squares = {name: torch.zeros_like(value) for name, value in mean.items()}
        with seeded(seed, device):
            for count in range(1, repeats + 1):
                gradients = _gradients(objective, pair, args, parameters)
                for name, gradient in gradients.items():  # Welford's update: no difference of large sums
                    away = gradient - mean[name]
                    mean[name] += away / count
                    squares[name] += away * (gradient - mean[name])
    variance = {name: (value / (repeats - 1)).cpu() for name, value in squares.items()}
    return GradientVariance({name: value.cpu() for name, value in mean.items()}, variance, repeats)


def _gradients(
    objective: Objective,
    pair: ModelAndGuide,
    args: tuple[Tensor, ...],
    parameters: dict[str, Tensor],
) -> dict[str, Tensor]:
    with torch.enable_grad():
        loss = objective.differentiable_loss(pair.model, pair.guide, *args) / len(args[0])
    values = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return {name: value.double() for name, value in zip(parameters, values, strict=True)}
