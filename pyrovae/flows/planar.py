"""The planar flow."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Transform
from torch.nn import functional

from pyrovae.errors import check_counts
from pyrovae.flows.base import BELOW_ONE, Flow, ForwardOnly


class Planar(Flow):
    """Planar steps f(z) = z + u tanh(w^T z + b) (Rezende & Mohamed 2015, equation 10).

    Each step costs two scalar products. There is no inverse, so the flow scores only its own draws.

    Args:
        latent_dim: the number of latent dimensions M.
        steps: the number of steps K.

    Raises:
        InputError: when a count is below 1.

    Examples:
        >>> from pyrovae.flows import Planar
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import FlowPosterior
        >>> posterior = FlowPosterior(MLP((1, 8, 8), 64), 2, Planar(2, steps=4))
    """

    has_inverse: ClassVar[bool] = False

    def __init__(self, latent_dim: int, steps: int = 10) -> None:
        check_counts(latent_dim=latent_dim, steps=steps)
        super().__init__(latent_dim, steps * (2 * latent_dim + 1))
        self.steps = steps

    def forward(self, context: Tensor) -> list[Transform]:
        """Return one transform for each step, for a context `(*leading, context_dim)`."""
        parts = (part.unbind(-2) for part in self._split(context))
        return [PlanarStep(u, w, b) for u, w, b in zip(*parts, strict=True)]

    def strengths(self, context: Tensor) -> Tensor:
        """Return u of every step, `(*leading, K, M)`."""
        return self._split(context)[0]

    def _split(self, context: Tensor) -> tuple[Tensor, ...]:
        """Return u and w, `(*leading, K, M)` each, and b, `(*leading, K, 1)`."""
        steps = context.unflatten(-1, (self.steps, 2 * self.latent_dim + 1))
        return steps.split((self.latent_dim, self.latent_dim, 1), -1)


class PlanarStep(ForwardOnly):
    """One planar step. It moves u along w so that w^T u > -1, which makes it invertible.

    Pyro's `ConditionedPlanar` is not used. As in appendix A.1 of the paper, it sets w^T u to m(w^T u) with
    m(a) = -1 + softplus(a). Since m(0) is not 0, that moves u by -0.3 w / |w|^2. So the step is not the
    identity at u = 0, and near w = 0 it and its gradient have a pole. In 32-bit m can be rounded to -1,
    where the log-determinant can be minus infinity. Here m(0) = 0 and m'(0) = 1, so u moves by
    O(|u|^2 |w|), and m stays above -1.

    Args:
        u: `(*leading, M)`.
        w: `(*leading, M)`.
        b: `(*leading, 1)`.
    """

    def __init__(self, u: Tensor, w: Tensor, b: Tensor) -> None:
        super().__init__()
        free = (u * w).sum(-1, keepdim=True)
        self.inner = BELOW_ONE * functional.elu(free / BELOW_ONE)  # w^T u after the replacement
        length = w.square().sum(-1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny)
        self.u, self.w, self.b = u + (self.inner - free) * w / length, w, b

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(x), `(*leading, M)`, and log |det df / dx|, `(*leading,)`."""
        h = torch.tanh((self.w * x).sum(-1, keepdim=True) + self.b)
        return x + self.u * h, torch.log1p((1 - h.square()) * self.inner).squeeze(-1)
