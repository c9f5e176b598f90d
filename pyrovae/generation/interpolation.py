"""Straight lines and squares between data in latent space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyrovae.errors import InputError, check_counts
from pyrovae.generation.codes import encoded
from pyrovae.generation.generator import Generator, Images, each
from pyrovae.programs.pair import ModelAndGuide, takes_pair
from pyrovae.programs.rows import Arguments


@takes_pair
def interpolate(
    pair: ModelAndGuide,
    start: Tensor,
    end: Tensor,
    steps: int = 10,
    site: str | None = None,
    *,
    given: Mapping[str, Any] | None = None,
) -> Images:
    """Decode the straight lines in latent space between data.

    Where images depend on a class (M2), it is the class of the nearer end. A likelihood that reads the data
    gets those of the nearer end.

    Args:
        pair: a trained pair.
        start: the data at which the lines start, `(N, *x_shape)`.
        end: the data at which the lines end, `(N, *x_shape)`.
        steps: the number of points on each line, both ends included.
        site: the latent to move. None means all latents.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each line. None means nothing.

    Returns:
        `(N, steps, *x_shape)`, on the CPU; a dictionary of them if several sites observe the data.

    Raises:
        InputError: `start` and `end` differ in shape, `steps` is below 2, or there is no such latent.
    """
    if start.shape != end.shape:
        raise InputError(
            f"the lines start at data of shape {tuple(start.shape)} and end at {tuple(end.shape)}: "
            "give one end for each start."
        )
    check_counts(2, steps=steps)
    along = torch.linspace(0, 1, steps)
    ends = torch.stack([start, end], 1).flatten(0, 1)
    of_ends = Arguments((start,), given or {}).of_data(lambda values: values.repeat_interleave(2, 0))
    generator = Generator(pair, of_ends.kwargs, ends)
    return _mixtures(generator, torch.stack([1 - along, along], -1), site)


@takes_pair
def interpolate_grid(
    pair: ModelAndGuide,
    corners: Tensor,
    steps: int = 10,
    site: str | None = None,
    *,
    given: Mapping[str, Any] | None = None,
) -> Images:
    """Decode the square in latent space between four data.

    Where images depend on a class (M2) or on something that is given, it is that of the nearest corner.

    Args:
        pair: a trained pair.
        corners: the data at the corners, `(4, *x_shape)`: top left, top right, bottom left, bottom right.
        steps: the number of points on each side, both ends included.
        site: the latent to move. None means all latents.
        given: further arguments of both programs by name, such as a condition. A tensor with 4 rows has one
            for each corner. None means nothing.

    Returns:
        `(steps, steps, *x_shape)`, on the CPU; a dictionary of them if several sites observe the data.

    Raises:
        InputError: there are not 4 corners, `steps` is below 2, or there is no such latent.
    """
    if len(corners) != 4:
        raise InputError(f"there are {len(corners)} images; a square has 4 corners.")
    if steps < 2:
        raise InputError(f"steps is {steps}; a side needs at least its 2 ends.")
    along = torch.linspace(0, 1, steps)
    down, right = (side.flatten() for side in torch.meshgrid(along, along, indexing="ij"))
    up, left = 1 - down, 1 - right
    weights = torch.stack([up * left, up * right, down * left, down * right], -1)
    images = _mixtures(Generator(pair, given, corners), weights, site)
    return each(images, lambda values: values[0].unflatten(0, (steps, steps)))


def _mixtures(generator: Generator, weights: Tensor, site: str | None) -> Images:
    """Decode weighted means of codes.

    Args:
        generator: the generator of N groups of K data, `(N * K, *x_shape)`.
        weights: the weights of P means, `(P, K)`.
        site: the latent to average. None means all latents.

    Returns:
        The images of the P means of each group, `(N, P, *x_shape)`.
    """
    codes = encoded(generator)
    if site is not None:
        codes = generator.without_descendants(codes, generator.site_of_data(site))
    nearest = torch.arange(generator.size).unflatten(0, (-1, weights.shape[1]))[:, weights.argmax(-1)]
    points = {}
    for name, values in codes.items():
        if name in generator.shared:
            points[name] = values
        elif name in generator.discrete:
            points[name] = values[nearest.flatten()]
        else:
            groups = values.unflatten(0, (-1, weights.shape[1]))
            points[name] = torch.einsum("pk,nk...->np...", weights.to(values), groups).flatten(0, 1)
    images = generator.images(points, nearest.flatten())
    return each(images, lambda values: values.unflatten(0, (-1, len(weights))))
