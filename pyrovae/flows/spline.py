"""The spline coupling flow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Transform

from pyrovae.distributions.zuko_import import zuko
from pyrovae.errors import InputError, check_counts
from pyrovae.flows.base import Flow, near_identity


class SplineCoupling(Flow):
    """Monotone rational-quadratic splines of each z_m on [-bound, bound] (Durkan et al. 2019, section 3).

    Outside of the interval a spline is the identity. The splines of one half of the dimensions depend on
    the context, those of the other half on the context and the first half. The halves swap from step to
    step.

    The flow costs one pass of a network for each step, and its inverse two.

    Args:
        latent_dim: the number of latent dimensions M.
        steps: the number of steps K.
        hidden: the widths of the hidden layers of each network.
        bins: the number of pieces of each spline.
        context: the size of the context that the encoder computes for the networks.
        bound: the upper end of the interval [-bound, bound].

    Raises:
        InputError: when a count is below 1, or `bound` is not above 0.

    Examples:
        >>> from pyrovae.flows import SplineCoupling
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import FlowPosterior
        >>> posterior = FlowPosterior(MLP((1, 8, 8), 64), 2, SplineCoupling(2, hidden=(32,)))
    """

    def __init__(
        self,
        latent_dim: int,
        steps: int = 4,
        hidden: Sequence[int] = (128, 128),
        bins: int = 8,
        context: int = 64,
        bound: float = 5.0,
    ) -> None:
        check_counts(latent_dim=latent_dim, steps=steps, bins=bins, context=context)
        if not bound > 0:
            raise InputError(f"bound is {bound}; it must be above 0.")
        super().__init__(latent_dim, context)
        self.steps = nn.ModuleList(
            near_identity(
                # As in Zuko's own spline flow, this is a masked transform in two passes and not Zuko's
                # coupling transform: the latter looks up its mask in every call, which a compiled step
                # cannot do.
                zuko.flows.MaskedAutoregressiveTransform(
                    latent_dim,
                    context,
                    adjacency=_second_half_sees_first(latent_dim, step % 2),
                    univariate=partial(zuko.transforms.MonotonicRQSTransform, bound=bound),
                    shapes=[(bins,), (bins,), (bins - 1,)],
                    hidden_features=hidden,
                    activation=nn.ELU,
                )
            )
            for step in range(steps)
        )

    def forward(self, context: Tensor) -> list[Transform]:
        """Return one transform for each step, for a context `(*leading, context_dim)`."""
        return [step(context) for step in self.steps]


def _second_half_sees_first(latent_dim: int, turn: int) -> Tensor:
    """Return whether each dimension (row) depends on each dimension (column), `(M, M)`.

    The second half are the odd dimensions in even turns, and the even dimensions in odd turns.
    """
    second = torch.arange(latent_dim) % 2 != turn
    return torch.eye(latent_dim, dtype=torch.bool) | (second[:, None] & ~second)
