"""Straight lines and squares between data in latent space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyrovae.errors import InputError, check_counts
from pyrovae.generation.codes import encoded
from pyrovae.generation.generator import Generator, Images, each
from pyrovae.programs.devices import back_to_caller
from pyrovae.programs.pair import ModelAndGuide, takes_pair


@takes_pair
@back_to_caller
def interpolate(
    pair: ModelAndGuide,
    start: Tensor,
    end: Tensor,
    steps: int = 10,
    site: str | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    given_end: Mapping[str, Any] | None = None,
) -> Images:
    """Decode the straight lines in latent space between data.

    Where images depend on a class (M2) or on something that is given, it is that of the nearer end. A
    likelihood that reads the data gets those of the nearer end.

    Args:
        pair: a trained pair.
        start: the data at which the lines start, `(N, *x_shape)`.
        end: the data at which the lines end, `(N, *x_shape)`.
        steps: the number of points on each line, both ends included.
        site: the latent to move. None means all latents.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each start. None means nothing.
        given_end: what is given with the ends, with the same names. None means what is given with the
            starts.

    Returns:
        `(N, steps, *x_shape)`, where the data are; a dictionary of them if several sites observe the data.

    Raises:
        InputError: `start` and `end` differ in shape, or `given` and `given_end` in their names or shapes;
            `steps` is below 2; or there is no such latent.
    """
    if start.shape != end.shape:
        raise InputError(
            f"the lines start at data of shape {tuple(start.shape)} and end at {tuple(end.shape)}: "
            "give one end for each start."
        )
    check_counts(2, steps=steps)
    ends = torch.stack([start, end], 1).flatten(0, 1)
    generator = Generator(
        pair, _of_ends(given, given if given_end is None else given_end, len(start)), ends
    )
    return _mixtures(generator, weights_on_line(steps), site)


def weights_on_line(steps: int) -> Tensor:
    """Return the weights of start and end in each point of a line, `(steps, 2)`."""
    along = torch.linspace(0, 1, steps)
    return torch.stack([1 - along, along], -1)


def weights_in_square(steps: int) -> Tensor:
    """Return the weights of the corners in each point of a square, row by row, `(steps * steps, 4)`."""
    along = torch.linspace(0, 1, steps)
    down, right = (side.flatten() for side in torch.meshgrid(along, along, indexing="ij"))
    up, left = 1 - down, 1 - right
    return torch.stack([up * left, up * right, down * left, down * right], -1)


def _of_ends(
    given: Mapping[str, Any] | None, given_end: Mapping[str, Any] | None, size: int
) -> dict[str, Any]:
    """Join what is given with the starts and the ends of N lines, row by row: start, end, start, end, ...

    Raises:
        InputError: the two differ in their names, or in the shapes of what has a row for each line.
    """
    first, last = given or {}, given_end or {}
    if first.keys() != last.keys():
        raise InputError(
            f"given has {', '.join(first) or 'nothing'}, but given_end has {', '.join(last) or 'nothing'}: "
            "give both the same names, or leave given_end out if all ends have what their starts have."
        )
    joined = {}
    for name, value in first.items():
        if not (isinstance(value, Tensor) and value.dim() and len(value) == size):
            joined[name] = value
            continue
        if not isinstance(last[name], Tensor) or last[name].shape != value.shape:
            shape = getattr(last[name], "shape", None)
            found = type(last[name]).__name__ if shape is None else f"of shape {tuple(shape)}"
            raise InputError(
                f"given['{name}'] has shape {tuple(value.shape)}, but given_end['{name}'] is {found}: give "
                "one row for each end."
            )
        joined[name] = torch.stack([value, last[name]], 1).flatten(0, 1)
    return joined


@takes_pair
@back_to_caller
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
        `(steps, steps, *x_shape)`, where the data are; a dictionary of them if several sites observe the
        data.

    Raises:
        InputError: there are not 4 corners, `steps` is below 2, or there is no such latent.
    """
    if len(corners) != 4:
        raise InputError(f"there are {len(corners)} images; a square has 4 corners.")
    if steps < 2:
        raise InputError(f"steps is {steps}; a side needs at least its 2 ends.")
    images = _mixtures(Generator(pair, given, corners), weights_in_square(steps), site)
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
