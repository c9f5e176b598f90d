"""The inverse autoregressive flow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Transform

from pyrovae.distributions.zuko_import import zuko
from pyrovae.errors import check_counts
from pyrovae.flows.base import Flow, near_identity


class InverseAutoregressive(Flow):
    """Steps f(z)_m = shift_m + scale_m z_m; shift_m and scale_m depend on z_1, ..., z_m-1 and the context.

    This is IAF (Kingma et al. 2016, algorithm 1). A masked network computes shift and scale. The order of
    the dimensions is reversed from step to step.

    The flow costs one pass of a network for each step. Its inverse costs M passes for each step, one after
    another. Each step is Zuko's masked autoregressive transform, used in its cheap direction. The paper's
    code has scale = sigmoid(s) and shift = (1 - scale) m; Zuko's scale is the exponential of a bounded
    number.

    Args:
        latent_dim: the number of latent dimensions M.
        steps: the number of steps K.
        hidden: the widths of the hidden layers of each network.
        context: the size of the context that the encoder computes for the networks.

    Raises:
        InputError: when a count is below 1.

    Examples:
        >>> from pyrovae.flows import InverseAutoregressive
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import FlowPosterior
        >>> posterior = FlowPosterior(MLP((1, 8, 8), 64), 2, InverseAutoregressive(2, hidden=(32,)))
    """

    def __init__(
        self, latent_dim: int, steps: int = 4, hidden: Sequence[int] = (128, 128), context: int = 64
    ) -> None:
        check_counts(latent_dim=latent_dim, steps=steps, context=context)
        super().__init__(latent_dim, context)
        order = torch.arange(latent_dim)
        self.steps = nn.ModuleList(
            near_identity(
                zuko.flows.MaskedAutoregressiveTransform(
                    latent_dim,
                    context,
                    order=order if step % 2 == 0 else order.flip(0),
                    hidden_features=hidden,
                    activation=nn.ELU,
                )
            )
            for step in range(steps)
        )

    def forward(self, context: Tensor) -> list[Transform]:
        """Return one transform for each step, for a context `(*leading, context_dim)`."""
        return [step(context) for step in self.steps]
