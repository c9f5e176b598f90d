"""The base class of likelihoods."""

from __future__ import annotations

from typing import ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.errors import InputError
from pyrovae.networks import out_shape_of, output_bias_of


class Likelihood(nn.Module):
    """The base class of likelihoods. A subclass defines `forward`.

    `start_at_marginals(x)` lets training start where the frequencies of each pixel are right, rather than
    at grey noise. That is faster, and keeps more latents in use. A subclass that supports it defines
    `output_at_marginals`.

    Args:
        network: maps z to the parameters of the pixels. It declares its `out_shape`, the event shape of the
            data.

    Attributes:
        pixels: the values of the data, which recipes prepare: "real" (any numbers), "grey" (from 0 to 1),
            "binary" (0 or 1) or "levels" (0 to 255). A subclass declares its own.

    Raises:
        InputError: when the network has no `out_shape`.

    Examples:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from pyrovae.likelihoods import Likelihood
        >>> from pyrovae.networks import MLP
        >>> class Poisson(Likelihood):
        ...     def forward(self, *context):
        ...         return dist.Poisson(self.network(*context).exp()).to_event(len(self.x_shape))
        ...     def output_at_marginals(self, x):
        ...         return x.mean(0).clamp(min=0.01).log()
        >>> Poisson(MLP(2, (1, 8, 8)))(torch.zeros(5, 2)).event_shape
        torch.Size([1, 8, 8])
    """

    pixels: ClassVar[str] = "real"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.x_shape = out_shape_of(network)

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """Return p(x | z), with batch shape `leading` and event shape `x_shape`.

        Args:
            context: z, `(*leading, M)`; in M2 also the class y, `(*leading,)`.
        """
        raise NotImplementedError

    def mean(self, *context: Tensor) -> Tensor:
        """Return E[x | z] as an image, `(*leading, *x_shape)`.

        Grey values are in [0, 1], but those of a Gaussian may exceed it.
        """
        return self(*context).mean

    def output_at_marginals(self, x: Tensor) -> Tensor:
        """Return the network's output, `out_shape`, at which each pixel has its distribution in the data.

        Args:
            x: the data, `(N, *x_shape)`.
        """
        raise InputError(
            f"a {type(self).__name__} likelihood cannot start at the marginals: define its method "
            "output_at_marginals(x), or do not call start_at_marginals."
        )

    @torch.no_grad()
    def start_at_marginals(self, x: Tensor) -> None:
        """Set the network's last bias so that each pixel starts at its distribution in the data.

        Where the network has one bias for each channel, all pixels of the channel start at their average.

        Args:
            x: the data, `(N, *x_shape)`.

        Raises:
            InputError: when the network has no `output_bias`, or the data have another shape or values that
                are not finite.
        """
        if (bias := output_bias_of(self.network)) is None:
            raise InputError(
                f"the {type(self.network).__name__} has no tensor `output_bias`, the bias of its last "
                "layer: add such a property, or initialise the network yourself."
            )
        if tuple(x.shape[1:]) != self.x_shape:
            raise InputError(f"the data have shape {tuple(x.shape)}; expected (N, *{self.x_shape}).")
        if not x.isfinite().all():
            raise InputError(
                "the data hold values that are not finite, and a marginal is that of all data: where some "
                "are missing, use the complete data, x[observed.flatten(1).all(1)]."
            )
        output = self.output_at_marginals(x.to(bias.device))
        bias.copy_(output.flatten() if bias.numel() == output.numel() else output.flatten(1).mean(1))
