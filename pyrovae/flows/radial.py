"""The radial flow."""

from __future__ import annotations

from typing import ClassVar

from pyro.distributions.transforms.radial import ConditionedRadial
from torch import Tensor
from torch.distributions import Transform

from pyrovae.errors import check_counts
from pyrovae.flows.base import Flow


class Radial(Flow):
    """Radial steps f(z) = z + beta (z - c) / (alpha + |z - c|) (Rezende & Mohamed 2015, equation 14).

    Each step costs one norm. There is no inverse, so the flow scores only its own draws.

    Args:
        latent_dim: the number of latent dimensions M.
        steps: the number of steps K.

    Raises:
        InputError: when a count is below 1.

    Examples:
        >>> from pyrovae.flows import Radial
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import FlowPosterior
        >>> posterior = FlowPosterior(MLP((1, 8, 8), 64), 2, Radial(2, steps=4))
    """

    has_inverse: ClassVar[bool] = False

    def __init__(self, latent_dim: int, steps: int = 10) -> None:
        check_counts(latent_dim=latent_dim, steps=steps)
        super().__init__(latent_dim, steps * (latent_dim + 2))
        self.steps = steps

    def forward(self, context: Tensor) -> list[Transform]:
        """Return one transform for each step, for a context `(*leading, context_dim)`."""
        parts = (part.unbind(-2) for part in self._split(context))
        # From two numbers Pyro computes alpha > 0 and beta > -alpha. Where the two are equal, beta is 0.
        return [
            ConditionedRadial((c, alpha, alpha + change)) for c, alpha, change in zip(*parts, strict=True)
        ]

    def strengths(self, context: Tensor) -> Tensor:
        """Return the number of every step that vanishes with beta, `(*leading, K, 1)`."""
        return self._split(context)[2]

    def _split(self, context: Tensor) -> tuple[Tensor, ...]:
        """Return c, `(*leading, K, M)`, and two numbers, `(*leading, K, 1)` each."""
        return context.unflatten(-1, (self.steps, self.latent_dim + 2)).split((self.latent_dim, 1, 1), -1)
