"""The weights of labels in training, beside the bound."""

from __future__ import annotations

from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.schedules import Schedule, linear_warm_up
from pyrovae.semi_supervised.labels import data_per_label


def per_label(weight: float, y: Tensor) -> float:
    """Turn the weight of a mean over the labelled data into a weight for each labelled datum.

    `fit` minimises a mean over all N data. With this weight on the labelled data's term log p, its loss is

        mean over all data of (-ELBO) - weight * mean over the labelled data of log p

    Args:
        weight: the weight of the mean.
        y: the classes that the model learns, `(N,)`, -1 for unlabelled data.

    Returns:
        The weight times N / L, with L labelled data.

    Raises:
        InputError: no datum is labelled, or the weight is negative.

    Example:
        >>> import torch
        >>> per_label(0.1, torch.tensor([0, -1, -1, 1]))
        0.2
    """
    if not weight >= 0:
        raise InputError(f"the weight of the labels is {weight}; it must be at least 0.")
    return weight * data_per_label(y)


def constraint_schedule(weight: float, delay: float = 0.0, warm_up: float = 0.0) -> Schedule:
    """Make the schedule of a constraint's weight: 0 at first, then a straight rise, then constant.

    Args:
        weight: the final weight.
        delay: the number of epochs during which the weight is 0.
        warm_up: the number of epochs after the delay during which the weight rises. 0 means that it jumps.

    Raises:
        InputError: one of the three is negative.

    Example:
        >>> weight = constraint_schedule(8.0, delay=2, warm_up=4)
        >>> [weight(epoch) for epoch in (0, 2, 3, 6, 9)]
        [0.0, 0.0, 2.0, 8.0, 8.0]
    """
    for name, value in {"weight": weight, "delay": delay, "warm_up": warm_up}.items():
        if not value >= 0:
            raise InputError(f"the {name} of a constraint is {value}; it must be at least 0.")
    if not warm_up:
        return lambda epoch: weight if epoch >= delay else 0.0
    return linear_warm_up(warm_up, end=weight, delay=delay)
