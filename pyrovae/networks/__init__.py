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


def out_shape_of(network: nn.Module) -> tuple[int, ...]:
    """The event shape of what a network makes.

    Raises:
        InputError: it has no `out_shape`.
    """
    if (shape := getattr(network, "out_shape", None)) is None:
        raise InputError(
            f"the {type(network).__name__} does not say what shape its output has: use one of "
            "pyrovae.networks, or give it the attribute, such as network.out_shape = (128,)."
        )
    return _shape(shape)


def features_of(network: nn.Module) -> int:
    """How many features a network makes.

    Raises:
        InputError: it has no `out_shape`, or one of several dimensions.
    """
    shape = out_shape_of(network)
    if len(shape) != 1:
        raise InputError(
            f"the {type(network).__name__} makes an output of shape {shape}; expected features, (F,): "
            "build it with that as its out_shape."
        )
    return shape[0]


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


class GatedMLP(nn.Module):
    """Gated layers h = (W x + b) * sigmoid(V x + c), then an affine map (Dauphin et al. 2017; as Tomczak &
    Welling 2018 use them).

    A gate lets a unit be linear where it is open, and passes gradients there undiminished.

    Args:
        in_shape: event shape of the input.
        out_shape: event shape of the output.
        hidden: width of each gated layer.
        gated_output: gate the output too. For features, which affine heads follow anyway: an affine map
            before them would add nothing.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        hidden: Sequence[int] = (300, 300),
        gated_output: bool = False,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _shape(in_shape), _shape(out_shape)
        widths = [math.prod(self.in_shape), *hidden]
        out = math.prod(self.out_shape)
        layers = [_gated_layer(before, after) for before, after in itertools.pairwise(widths)]
        last = _gated_layer(widths[-1], out) if gated_output else nn.Linear(widths[-1], out)
        self.layers = nn.Sequential(*layers, last)

    @property
    def output_bias(self) -> Tensor | None:
        """The last layer's bias, `(prod(out_shape),)`; a gated output has no such single bias."""
        return getattr(self.layers[-1], "bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(*leading, *in_shape)` to `(*leading, *out_shape)`."""
        _check_event(x, self.in_shape)
        return self.layers(x.flatten(-len(self.in_shape))).unflatten(-1, self.out_shape)


def _gated_layer(before: int, after: int) -> nn.Sequential:
    """W x + b and V x + c in one product; nn.GLU multiplies the first half by the sigmoid of the second."""
    both = nn.Linear(before, 2 * after)
    # He's scale, as if for a ReLU: the gates, about a half, shrink what passes as a ReLU does.
    nn.init.kaiming_normal_(both.weight, nonlinearity="relu")
    return nn.Sequential(both, nn.GLU())


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

    one_hot: Tensor

    def __init__(self, network: nn.Module, num_classes: int, features: nn.Module | None = None) -> None:
        super().__init__()
        self.network, self.num_classes, self.features = network, num_classes, features
        self.out_shape = network.out_shape
        self.register_buffer("one_hot", torch.eye(num_classes), persistent=False)

    @property
    def output_bias(self) -> Tensor:
        """The last layer's bias."""
        return self.network.output_bias  # type: ignore[return-value]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Map data `(*leading, *in_shape)` and classes `(*leading,)` to `(*leading, *out_shape)`; the
        two sets of leading dimensions are broadcast against each other.

        Raises:
            InputError: a class that the network does not have, or that is no whole number.
        """
        h = x if self.features is None else self.features(x)
        return self.network(_side_by_side(h, self._one_hot(y)))

    def _one_hot(self, y: Tensor) -> Tensor:
        if y.is_floating_point():
            raise InputError(f"the classes have type {y.dtype}; expected whole numbers: use y.long().")
        try:
            # Unlike functional.one_hot, which looks at the values first, this can be traced into a graph.
            return functional.embedding(y.long(), self.one_hot)
        except IndexError as error:
            raise InputError(
                f"classes from {y.min()} to {y.max()} do not go into a network of {self.num_classes} "
                f"classes, which are whole numbers from 0: {error}"
            ) from error


class Joined(nn.Module):
    """A network of several things at once, such as x and z2 in q(z1 | x, z2): their features side by side.

    Args:
        network: of all features, from `(F1 + F2 + ...,)`.
        parts: for each thing in turn a network to features `(F,)`, or None for a vector that enters as it
            is. Each runs once for each of its own leading dimensions: an image is not encoded anew for
            every particle of the latent beside it.
    """

    def __init__(self, network: nn.Module, *parts: nn.Module | None) -> None:
        super().__init__()
        self.network = network
        self.parts = nn.ModuleList(nn.Identity() if part is None else part for part in parts)
        self.out_shape = network.out_shape

    @property
    def output_bias(self) -> Tensor:
        """The last layer's bias."""
        return self.network.output_bias  # type: ignore[return-value]

    def forward(self, *contexts: Tensor) -> Tensor:
        """Map one tensor `(*leading, *in_shape)` for each part to `(*leading, *out_shape)`; their leading
        dimensions are broadcast against each other.

        Raises:
            InputError: another number of tensors than parts, or leading dimensions that do not fit.
        """
        if len(contexts) != len(self.parts):
            raise InputError(
                f"a network that joins {len(self.parts)} parts was given {len(contexts)} tensors: "
                "it needs one for each."
            )
        return self.network(_side_by_side(*(part(x) for part, x in zip(self.parts, contexts, strict=True))))


def _side_by_side(*features: Tensor) -> Tensor:
    """Concatenate features `(*leading, F)` whose leading dimensions broadcast."""
    try:
        leading = torch.broadcast_shapes(*(h.shape[:-1] for h in features))
    except RuntimeError as error:
        shapes = " and ".join(str(tuple(h.shape)) for h in features)
        raise InputError(
            f"features of shapes {shapes} do not stand side by side: all dimensions but the last must "
            "be equal, or 1."
        ) from error
    return torch.cat([h.expand(*leading, h.shape[-1]) for h in features], -1)


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
