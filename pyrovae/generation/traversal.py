"""Move latent dimensions through the prior's quantiles: one at a time, or both of a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyrovae.errors import InputError, check_counts
from pyrovae.generation.codes import encoded
from pyrovae.generation.generator import Generator, Images, each
from pyrovae.generation.images import decoded
from pyrovae.generation.prior import quantiles
from pyrovae.programs.devices import back_to_caller
from pyrovae.programs.pair import ModelAndGuide, takes_pair

LEVELS = (0.01, 0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99)  # the levels of the quantiles in a traversal


@takes_pair
@back_to_caller
def traverse(
    pair: ModelAndGuide,
    x: Tensor,
    dimensions: Sequence[int] | None = None,
    levels: Sequence[float] = LEVELS,
    site: str | None = None,
    *,
    given: Mapping[str, Any] | None = None,
) -> Images:
    """Move a datum's code along one dimension at a time.

    In row d, dimension d is at the prior's quantiles, and all else is at the datum's posterior mean.

    Args:
        pair: a trained pair.
        x: one datum, `(*x_shape,)`.
        dimensions: the D dimensions to move, counted from 0 in the flattened latent. None means all.
        levels: the Q levels of the quantiles, between 0 and 1.
        site: the latent to move. None means the one that the model samples last before the data.
        given: further arguments of both programs by name, such as a condition, with one row `(1, ...)`.
            None means nothing.

    Returns:
        `(D, Q, *x_shape)`, where the data are; a dictionary of them if several sites observe the data.

    Raises:
        InputError: there is no such latent or dimension, or the latent has no prior.
    """
    generator = Generator(pair, given, x[None])
    site = generator.prior_site(site)
    codes = generator.without_descendants(encoded(generator), site)
    size = codes[site].numel()
    dimensions = range(size) if dimensions is None else dimensions
    if unknown := [d for d in dimensions if not 0 <= d < size]:
        raise InputError(f"there is no dimension {unknown[0]}; '{site}' has {size}, counted from 0.")
    shape = (len(dimensions), len(levels))
    codes = generator.each_of_data(
        codes, lambda values: values.repeat(shape[0] * shape[1], *[1] * (values.dim() - 1))
    )
    values, moved = quantiles(generator, levels, site), codes[site].view(*shape, size)
    for row, dimension in enumerate(dimensions):
        moved[row, :, dimension] = values[:, dimension]
    images = generator.images(codes, torch.zeros(len(moved.view(-1, size)), dtype=torch.long))
    return each(images, lambda values: values.unflatten(0, shape))


@takes_pair
@back_to_caller
def manifold(
    pair: ModelAndGuide,
    steps: int = 15,
    label: int | None = None,
    site: str | None = None,
    *,
    given: Mapping[str, Any] | None = None,
) -> Images:
    """Decode a 2-D latent space at the prior's quantiles, from 1% to 99%.

    The first dimension grows to the right and the second one upwards.

    Args:
        pair: a trained pair.
        steps: the number of images along each axis.
        label: the class, for a model whose images depend on one.
        site: the latent. None means the one that the model samples last before the data.
        given: further arguments of both programs by name, such as a condition, with one row `(1, ...)`.
            None means nothing.

    Returns:
        `(steps, steps, *x_shape)`; a dictionary of them if several sites observe the data.

    Raises:
        InputError: the latent is not 2-D or has no prior, `steps` is below 2, or a class is missing.
    """
    check_counts(2, steps=steps)
    generator = Generator(pair, given)
    site = generator.prior_site(site)
    values = quantiles(generator, torch.linspace(0.01, 0.99, steps).tolist(), site)
    if values.shape[-1] != 2:
        raise InputError(
            f"'{site}' has {values.shape[-1]} dimensions, and a plane has 2: train with latent_dim 2, "
            "or traverse one dimension at a time."
        )
    up, right = torch.meshgrid(values[:, 1].flip(0), values[:, 0], indexing="ij")
    z = torch.stack([right, up], -1).flatten(0, 1)
    y = None if label is None else torch.full((len(z),), label)
    images = decoded(generator, z, y, site, rows=torch.zeros(len(z), dtype=torch.long))
    return each(images, lambda values: values.unflatten(0, (steps, steps)))
