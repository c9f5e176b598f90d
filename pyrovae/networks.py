"""Networks: plain `nn.Module`s from tensors to tensors. They know nothing of probability.

Every network accepts any leading dimensions before its event, `(*leading, *in_shape)` ->
`(*leading, *out_shape)`, so that particles and enumerated classes pass through it like a batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pyrovae.errors import InputError

Shape = int | Sequence[int]


def _shape(shape: Shape) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


def _check_event(x: Tensor, in_shape: tuple[int, ...]) -> None:
    if tuple(x.shape[-len(in_shape) :]) != in_shape:
        raise InputError(
            f"the network expects data of shape (*, {', '.join(map(str, in_shape))}), "
            f"but was given {tuple(x.shape)}."
        )


class MLP(nn.Module):
    """A multi-layer perceptron from `in_shape` to `out_shape`; without hidden layers, an affine map.

    Args:
        in_shape: event shape of the input, `(1, 28, 28)` or `784`.
        out_shape: event shape of the output.
        hidden: width of each hidden layer.
        activation: what follows each hidden layer.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        hidden: Sequence[int] = (500, 500),
        activation: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _shape(in_shape), _shape(out_shape)
        widths = [math.prod(self.in_shape), *hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), activation()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], math.prod(self.out_shape)))

    @property
    def output_bias(self) -> Tensor:
        """The last layer's bias, `(prod(out_shape),)`."""
        return self.layers[-1].bias  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """Map `(*leading, *in_shape)` to `(*leading, *out_shape)`."""
        _check_event(x, self.in_shape)
        return self.layers(x.flatten(-len(self.in_shape))).unflatten(-1, self.out_shape)


class ResidualMLP(nn.Module):
    """An affine map, residual blocks x + W2 SiLU(W1 norm(x)), and an affine map (He et al. 2016).

    Deeper than an `MLP` of the same cost, it reaches a given bound in far fewer epochs.

    Args:
        in_shape: event shape of the input.
        out_shape: event shape of the output.
        width: of every layer within.
        blocks: how many residual blocks, of two layers each.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, width: int = 400, blocks: int = 2) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _shape(in_shape), _shape(out_shape)
        self.first = nn.Linear(math.prod(self.in_shape), width)
        self.blocks = nn.ModuleList(_residual_branch(width) for _ in range(blocks))
        self.last = nn.Sequential(
            nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, math.prod(self.out_shape))
        )

    @property
    def output_bias(self) -> Tensor:
        """The last layer's bias, `(prod(out_shape),)`."""
        return self.last[-1].bias  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """Map `(*leading, *in_shape)` to `(*leading, *out_shape)`."""
        _check_event(x, self.in_shape)
        h = self.first(x.flatten(-len(self.in_shape)))
        for branch in self.blocks:
            h = h + branch(h)
        return self.last(h).unflatten(-1, self.out_shape)


def _residual_branch(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))


class ConvEncoder(nn.Module):
    """Strided convolutions that halve an image while its side is even and above 4, then an affine map.

    Args:
        in_shape: `(C, H, W)`; `(1, 8, 8)`, `(1, 28, 28)` and `(3, 32, 32)` are the usual ones.
        out_shape: event shape of the output.
        channels: channels after the first convolution; each halving doubles them.
    """

    def __init__(self, in_shape: Sequence[int], out_shape: Shape, channels: int = 32) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _image_shape(in_shape), _shape(out_shape)
        sizes = _halvings(self.in_shape)
        layers: list[nn.Module] = [nn.Conv2d(self.in_shape[0], channels, 3, padding=1), nn.GELU()]
        for level in range(1, len(sizes)):
            wide = channels * 2 ** (level - 1)
            layers += [nn.Conv2d(wide, 2 * wide, 4, stride=2, padding=1), nn.GELU()]
        last = channels * 2 ** (len(sizes) - 1) * math.prod(sizes[-1])
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(last, math.prod(self.out_shape)))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(*leading, C, H, W)` to `(*leading, *out_shape)`."""
        _check_event(x, self.in_shape)
        out = self.layers(x.reshape(-1, *self.in_shape))
        return out.reshape(*x.shape[:-3], *self.out_shape)


class ConvDecoder(nn.Module):
    """The mirror image of `ConvEncoder`: an affine map, then transposed convolutions that double.

    Args:
        in_shape: event shape of the input.
        out_shape: `(C, H, W)`.
        channels: channels before the last convolution.
    """

    def __init__(self, in_shape: Shape, out_shape: Sequence[int], channels: int = 32) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _shape(in_shape), _image_shape(out_shape)
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
        """The last layer's bias, one for each channel, `(C,)`."""
        return self.layers[-1].bias  # type: ignore[return-value]

    def forward(self, z: Tensor) -> Tensor:
        """Map `(*leading, *in_shape)` to `(*leading, C, H, W)`."""
        _check_event(z, self.in_shape)
        out = self.layers(z.reshape(-1, *self.in_shape))
        return out.reshape(*z.shape[: z.dim() - len(self.in_shape)], *self.out_shape)


class WithClass(nn.Module):
    """A network of a datum and its class: the class enters one-hot, beside the datum's features.

    Args:
        network: of the two side by side, from `(F + C,)`.
        num_classes: C.
        features: datum -> `(F,)`; by default the datum is a vector and enters as it is. It runs once,
            for however many classes the rest runs, so that enumeration spares a large encoder.
    """

    def __init__(self, network: nn.Module, num_classes: int, features: nn.Module | None = None) -> None:
        super().__init__()
        self.network, self.num_classes, self.features = network, num_classes, features
        self.out_shape = network.out_shape

    @property
    def output_bias(self) -> Tensor:
        """The last layer's bias."""
        return self.network.output_bias  # type: ignore[return-value]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Map data `(*leading, *in_shape)` and classes `(*leading,)` to `(*leading, *out_shape)`; the
        two sets of leading dimensions are broadcast against each other.

        Raises:
            InputError: a class that the network does not have.
        """
        h = x if self.features is None else self.features(x)
        one_hot = self._one_hot(y).to(h.dtype)
        leading = torch.broadcast_shapes(h.shape[:-1], y.shape)
        parts = [part.expand(*leading, part.shape[-1]) for part in (h, one_hot)]
        return self.network(torch.cat(parts, -1))

    def _one_hot(self, y: Tensor) -> Tensor:
        try:
            return functional.one_hot(y, self.num_classes)
        except RuntimeError as error:
            raise InputError(
                f"classes from {y.min()} to {y.max()} do not go into a network of {self.num_classes} "
                f"classes, which are whole numbers from 0: {error}"
            ) from error


def _image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    if len(_shape(shape)) != 3:
        raise InputError(
            f"a convolutional network needs images of shape (C, H, W), not {_shape(shape)}: "
            "use the MLP for vectors."
        )
    channels, height, width = shape
    return channels, height, width


def _halvings(image_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """`(1, 28, 28)` -> `[(28, 28), (14, 14), (7, 7)]`."""
    sizes = [image_shape[1:]]
    while all(side > 4 and side % 2 == 0 for side in sizes[-1]):
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes
