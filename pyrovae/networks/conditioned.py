"""Networks with several inputs: an input and its class, or an input and latents."""

from __future__ import annotations

import torch
from pyro.distributions import is_validation_enabled
from torch import Tensor, nn
from torch.nn import functional

from pyrovae.compute.indices import check_range, unchecked
from pyrovae.errors import InputError
from pyrovae.networks.shapes import out_shape_of, output_bias_of


class WithClass(nn.Module):
    """A network of a datum and its class. The class is one-hot and is concatenated to the datum's features.

    Args:
        network: maps features and class, `(F + C,)`, to the output. It declares its `out_shape`.
        num_classes: the number of classes C.
        features: maps a datum to features `(F,)`. It runs once for each datum, however many classes are
            enumerated, so a large encoder costs no more than without classes. By default the datum is a
            vector `(F,)` and enters as it is.

    Raises:
        InputError: when `network` has no `out_shape`.

    Examples:
        >>> import torch
        >>> from pyrovae.networks import MLP, WithClass
        >>> network = WithClass(MLP(2 + 10, (1, 8, 8)), num_classes=10)
        >>> network(torch.zeros(5, 2), torch.tensor([0, 1, 2, 3, 4])).shape
        torch.Size([5, 1, 8, 8])
    """

    one_hot: Tensor

    def __init__(self, network: nn.Module, num_classes: int, features: nn.Module | None = None) -> None:
        super().__init__()
        self.network, self.num_classes, self.features = network, num_classes, features
        self.out_shape = out_shape_of(network)
        self.register_buffer("one_hot", torch.eye(num_classes), persistent=False)

    @property
    def output_bias(self) -> Tensor | None:
        """The bias of the last layer, if `network` declares one."""
        return output_bias_of(self.network)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Map data `(*leading, *in_shape)` and classes `(*leading,)` to `(*leading, *out_shape)`.

        The leading dimensions of the two are broadcast against each other.

        Raises:
            InputError: when a class is not one of 0, 1, ..., C - 1, or when `y` has a floating-point type.
        """
        h = x if self.features is None else self.features(x)
        return self.network(_concatenate(h, self._one_hot(y)))

    def _one_hot(self, y: Tensor) -> Tensor:
        if y.is_floating_point():
            raise InputError(f"the classes have type {y.dtype}; expected whole numbers: use y.long().")
        try:
            if unchecked(y.device) and is_validation_enabled():
                check_range(y, 0, self.num_classes)
            # functional.one_hot reads the values of y first, which cannot be traced into a graph. This can.
            return functional.embedding(y.long(), self.one_hot)
        except IndexError as error:
            raise InputError(
                f"the classes go from {y.min()} to {y.max()}; expected whole numbers from 0 to "
                f"{self.num_classes - 1}, since the network has {self.num_classes} classes."
            ) from error


class Joined(nn.Module):
    """A network of several inputs, such as x and z2 in q(z1 | x, z2). It concatenates their features.

    Args:
        network: maps all features, `(F1 + F2 + ...,)`, to the output. It declares its `out_shape`.
        parts: one network for each input, which maps the input to features `(F,)`. None stands for an input
            that is a vector and enters as it is. Each part runs only over the leading dimensions of its own
            input: an image is encoded once for all particles of the latents.

    Raises:
        InputError: when `network` has no `out_shape`.

    Examples:
        >>> import torch
        >>> from pyrovae.networks import MLP, Joined
        >>> network = Joined(MLP(16 + 2, 8), MLP((1, 4, 4), 16), None)
        >>> network(torch.zeros(7, 1, 4, 4), torch.zeros(5, 7, 2)).shape
        torch.Size([5, 7, 8])
    """

    def __init__(self, network: nn.Module, *parts: nn.Module | None) -> None:
        super().__init__()
        self.network = network
        self.parts = nn.ModuleList(nn.Identity() if part is None else part for part in parts)
        self.out_shape = out_shape_of(network)

    @property
    def output_bias(self) -> Tensor | None:
        """The bias of the last layer, if `network` declares one."""
        return output_bias_of(self.network)

    def forward(self, *contexts: Tensor) -> Tensor:
        """Map one tensor `(*leading, *in_shape)` for each part to `(*leading, *out_shape)`.

        The leading dimensions of the tensors are broadcast against each other.

        Raises:
            InputError: when the number of tensors is not the number of parts, or when the leading
                dimensions do not broadcast.
        """
        if len(contexts) != len(self.parts):
            raise InputError(
                f"the network joins {len(self.parts)} parts, but was called with {len(contexts)} tensors: "
                "pass one tensor for each part."
            )
        return self.network(_concatenate(*(part(x) for part, x in zip(self.parts, contexts, strict=True))))


def _concatenate(*features: Tensor) -> Tensor:
    """Concatenate features `(*leading, F)` whose leading dimensions broadcast."""
    try:
        leading = torch.broadcast_shapes(*(h.shape[:-1] for h in features))
    except RuntimeError as error:
        shapes = " and ".join(str(tuple(h.shape)) for h in features)
        raise InputError(
            f"features of shapes {shapes} cannot be concatenated: all dimensions but the last must be "
            "equal, or 1."
        ) from error
    return torch.cat([h.expand(*leading, h.shape[-1]) for h in features], -1)
