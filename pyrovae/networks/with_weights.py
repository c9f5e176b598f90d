"""A network whose weights are an argument, for weights that are latents."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrovae.errors import InputError
from pyrovae.networks.shapes import out_shape_of


class WithWeights(nn.Module):
    """A network that is called with its weights, as one vector `(P,)`.

    Args:
        network: the network. It declares its `out_shape`. Its own parameters are frozen. They only say how
            the weights start.

    Raises:
        InputError: when the network has no parameters, or no `out_shape`.

    Examples:
        >>> import torch
        >>> from pyrovae.networks import MLP, WithWeights
        >>> network = WithWeights(MLP(2, 3, hidden=(4,)))
        >>> network(torch.zeros(5, 2), torch.zeros_like(network.initial_weights()))
        tensor([[0., 0., 0.],
                [0., 0., 0.],
                [0., 0., 0.],
                [0., 0., 0.],
                [0., 0., 0.]])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.out_shape = out_shape_of(network)
        self.shapes = {name: value.shape for name, value in network.named_parameters()}
        if not self.shapes:
            raise InputError(
                f"the {type(network).__name__} has no parameters; expected a network with weights."
            )

    def initial_weights(self) -> Tensor:
        """Return the network's own parameters, `(P,)`."""
        return nn.utils.parameters_to_vector(self.network.parameters())

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Map `(*leading, *in_shape)` to `(*leading, *out_shape)` with these weights, `(P,)`."""
        parts = weights.split([shape.numel() for shape in self.shapes.values()])
        named = {
            name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        output: Tensor = torch.func.functional_call(self.network, named, (x,))
        return output
