"""Transforms of pixels: binary pixels, 256 grey levels, random shifts, and several of these in turn."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from pyro.distributions import is_validation_enabled
from torch import Tensor

from pyrovae.data.checks import check_seed, check_tensor
from pyrovae.errors import InputError, check_counts

Transform = Callable[[Tensor], Tensor]


def in_turn(*transforms: Transform) -> Transform | None:
    """Compose transforms into one that applies the first, then the second, and so on.

    Args:
        *transforms: functions of a minibatch `(B, ...)` that return the changed minibatch.

    Returns:
        The composed transform; None if there are no transforms.

    Example:
        >>> in_turn(to_levels, from_levels)(torch.tensor([0.0, 1.0]))
        tensor([0., 1.])
    """
    if not transforms:
        return None
    return lambda x: functools.reduce(lambda x, transform: transform(x), transforms, x)


def binarise(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw each pixel from a Bernoulli distribution whose probability is the grey value.

    Applied to a minibatch anew at each step, `fit(..., transform=binarise)`, this is dynamic binarisation.

    Args:
        x: floats in [0, 1], of any shape.
        generator: a generator on the device of `x`; by default the global random state is used.

    Returns:
        Zeros and ones, of the shape and type of `x`.

    Raises:
        InputError: `x` is not a float tensor in [0, 1]. The range is not checked while Pyro's validation is
            off: a check would make the program wait for a GPU at every step. `fit` turns validation off in
            its steps, after it has checked all data once.
    """
    _check_range(x, 1, "binarise")
    return torch.bernoulli(x, generator=generator)


def binarise_static(x: Tensor, seed: int = 0) -> Tensor:
    """Binarise once and for all: a fixed draw of `binarise`, the same on every device.

    Args:
        x: floats in [0, 1], of any shape.
        seed: the seed of the draw, from 0 to 2**32 - 1.

    Returns:
        Zeros and ones, of the shape, type and device of `x`. The global random state does not change.

    Raises:
        InputError: `x` is not a float tensor in [0, 1], or the seed is out of range.
    """
    check_seed(seed)
    check_tensor(x)
    return binarise(x.cpu(), torch.Generator().manual_seed(seed)).to(x.device)


def random_shift(x: Tensor, pixels: int, generator: torch.Generator | None = None) -> Tensor:
    """Shift each image by a random number of pixels down and another one across.

    Args:
        x: images `(B, C, H, W)`.
        pixels: the largest shift in each direction. Both shifts are uniform on -pixels, ..., pixels.
        generator: a generator on the device of `x`; by default the global random state is used.

    Returns:
        The shifted images `(B, C, H, W)`. Pixels without a source are 0, black.

    Raises:
        InputError: `x` are not images `(B, C, H, W)`, or `pixels` is negative, or not below H and W.
    """
    check_tensor(x)
    check_counts(0, pixels=pixels)
    if x.dim() != 4:
        raise InputError(
            f"data of shape {tuple(x.shape)} cannot be shifted by {pixels} pixels: give images "
            "(B, C, H, W)."
        )
    height, width = x.shape[-2:]
    if pixels >= min(height, width):
        raise InputError(
            f"images of {width}x{height} pixels cannot be shifted by {pixels}, out of sight: choose at "
            f"most {min(height, width) - 1}, and a few pixels to keep what they show."
        )
    padded = torch.nn.functional.pad(x, (pixels,) * 4)
    moves = torch.randint(2 * pixels + 1, (2, len(x), 1), generator=generator, device=x.device)
    down, across = moves
    rows = (down + torch.arange(height, device=x.device))[:, :, None]
    columns = (across + torch.arange(width, device=x.device))[:, None, :]
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return padded[image, :, rows, columns].movedim(-1, 1)


def to_levels(x: Tensor) -> Tensor:
    """Round grey values to the nearest of 256 levels, for a categorical or discretised likelihood.

    Args:
        x: floats in [0, 1], of any shape.

    Returns:
        Floats 0, 1, ..., 255, of the shape of `x`.

    Raises:
        InputError: `x` is not a float tensor in [0, 1].
    """
    _check_range(x, 1, "to_levels")
    return (x * 255).round()


def from_levels(levels: Tensor) -> Tensor:
    """Divide 256 grey levels by 255, the inverse of `to_levels`.

    Args:
        levels: floats in [0, 255], of any shape.

    Returns:
        Floats in [0, 1], of the shape of `levels`.

    Raises:
        InputError: `levels` is not a float tensor in [0, 255].
    """
    _check_range(levels, 255, "from_levels")
    return levels / 255


def _check_range(x: Tensor, high: int, what: str) -> None:
    check_tensor(x)
    if not x.is_floating_point():
        raise InputError(f"{what} was given {x.dtype}, expected floats in [0, {high}]: convert it.")
    if is_validation_enabled() and not bool(((x >= 0) & (x <= high)).all()):  # false for NaN too
        raise InputError(
            f"{what} was given values in [{float(x.min()):.9g}, {float(x.max()):.9g}], expected "
            f"[0, {high}]: rescale them first."
        )
