"""Convolutional networks for images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from pyrovae.errors import InputError
from pyrovae.networks.shapes import Shape, as_shape, check_event


class ConvEncoder(nn.Module):
    """Strided convolutions that halve an image while its sides are even and above 4, then an affine map.

    Args:
        in_shape: the shape of the images, `(C, H, W)`, such as `(1, 8, 8)`, `(1, 28, 28)` or `(3, 32, 32)`.
        out_shape: the event shape of the output.
        channels: the number of channels after the first convolution. Each halving doubles it.

    Raises:
        InputError: when `in_shape` is not the shape of an image.

    Examples:
        >>> import torch
        >>> from pyrovae.networks import ConvEncoder
        >>> network = ConvEncoder((1, 28, 28), 64, channels=8)
        >>> network(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 64])
    """

    def __init__(self, in_shape: Sequence[int], out_shape: Shape, channels: int = 32) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _image_shape(in_shape), as_shape(out_shape)
        sizes = _halvings(self.in_shape)
        layers: list[nn.Module] = [nn.Conv2d(self.in_shape[0], channels, 3, padding=1), nn.GELU()]
        for level in range(1, len(sizes)):
            wide = channels * 2 ** (level - 1)
            layers += [nn.Conv2d(wide, 2 * wide, 4, stride=2, padding=1), nn.GELU()]
        last = channels * 2 ** (len(sizes) - 1) * math.prod(sizes[-1])
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(last, math.prod(self.out_shape)))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(*leading, C, H, W)` to `(*leading, *out_shape)`.

        Raises:
            InputError: when the last dimensions of `x` are not `(C, H, W)`.
        """
        check_event(x, self.in_shape)
        out = self.layers(x.reshape(-1, *self.in_shape))
        return out.reshape(*x.shape[:-3], *self.out_shape)


class ConvDecoder(nn.Module):
    """The mirror image of `ConvEncoder`: an affine map, then transposed convolutions that double an image.

    Args:
        in_shape: the event shape of the input.
        out_shape: the shape of the images, `(C, H, W)`.
        channels: the number of channels before the last convolution.

    Raises:
        InputError: when `out_shape` is not the shape of an image.

    Examples:
        >>> import torch
        >>> from pyrovae.networks import ConvDecoder
        >>> network = ConvDecoder(10, (1, 28, 28), channels=8)
        >>> network(torch.zeros(5, 10)).shape
        torch.Size([5, 1, 28, 28])
    """

    def __init__(self, in_shape: Shape, out_shape: Sequence[int], channels: int = 32) -> None:
        super().__init__()
        self.in_shape, self.out_shape = as_shape(in_shape), _image_shape(out_shape)
        sizes = _halvings(self.out_shape)
        widest = channels * 2 ** (len(sizes) - 1)
        layers: list[nn.Module] = [
            nn.Flatten(),
            nn.Linear(math.prod(self.in_shape), widest * math.prod(sizes[-1])),
            nn.GELU(),
            nn.Unflatten(1, (widest, *sizes[-1])),
        ]
        for level in range(len(sizes) - 1, 0, -1):
            wide = channels * 2**level
            layers += [nn.ConvTranspose2d(wide, wide // 2, 4, stride=2, padding=1), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, self.out_shape[0], 3, padding=1))

    @property
    def output_bias(self) -> Tensor:
        """The bias of the last layer, one number for each channel, `(C,)`."""
        return cast(Tensor, self.layers[-1].bias)

    def forward(self, z: Tensor) -> Tensor:
        """Map `(*leading, *in_shape)` to `(*leading, C, H, W)`.

        Raises:
            InputError: when the last dimensions of `z` are not `in_shape`.
        """
        check_event(z, self.in_shape)
        out = self.layers(z.reshape(-1, *self.in_shape))
        return out.reshape(*z.shape[: z.dim() - len(self.in_shape)], *self.out_shape)


def _image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    if len(as_shape(shape)) != 3:
        raise InputError(
            f"a convolutional network needs images of shape (C, H, W), not {as_shape(shape)}: use MLP for "
            "vectors."
        )
    channels, height, width = shape
    return channels, height, width


def _halvings(image_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Return the sizes of the image, each half of the one before: `(1, 28, 28)` gives 28, 14 and 7."""
    sizes = [image_shape[1:]]
    while all(side > 4 and side % 2 == 0 for side in sizes[-1]):
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes
