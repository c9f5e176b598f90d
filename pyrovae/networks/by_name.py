"""Networks as `network(in_shape, out_shape, *, width, role)`, for the table of networks.

The role is the network's place in the model. An "encoder" maps the data to a final output, such as logits.
A network for "features" maps the data to features, which affine heads take. A "decoder" maps latents to
data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

    from pyrovae.networks import Shape

Role = Literal["encoder", "features", "decoder"]


def mlp(in_shape: Shape, out_shape: Shape, *, width: int, role: Role) -> nn.Module:
    """Make a multi-layer perceptron with two hidden layers of the given width."""
    from pyrovae.networks import MLP

    return MLP(in_shape, out_shape, hidden=(width, width))


def gated(in_shape: Shape, out_shape: Shape, *, width: int, role: Role) -> nn.Module:
    """Make a perceptron with two gated layers. For "features", the second one is the output."""
    from pyrovae.networks import GatedMLP

    if role == "features":
        return GatedMLP(in_shape, out_shape, hidden=(width,), gated_output=True)
    return GatedMLP(in_shape, out_shape, hidden=(width, width))


def residual(in_shape: Shape, out_shape: Shape, *, width: int, role: Role) -> nn.Module:
    """Make a perceptron of residual blocks of the given width."""
    from pyrovae.networks import ResidualMLP

    return ResidualMLP(in_shape, out_shape, width=width)


def conv(in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, width: int, role: Role) -> nn.Module:
    """Make a convolutional encoder or decoder. The least number of channels is an eighth of the width."""
    from pyrovae.networks import ConvDecoder, ConvEncoder

    kind = ConvDecoder if role == "decoder" else ConvEncoder
    return kind(in_shape, out_shape, channels=max(1, width // 8))
