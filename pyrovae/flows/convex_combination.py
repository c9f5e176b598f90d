"""The convex-combination linear inverse autoregressive flow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Transform, constraints

from pyrovae.errors import check_counts
from pyrovae.flows.base import Flow
from pyrovae.flows.triangular import lower_triangle, triangle_cells


class ConvexCombination(Flow):
    """f(z) = sum_k y_k L_k z, with lower triangular matrices L_k and weights y = softmax(logits).

    The L_k have ones on the diagonal. This is the convex-combination linear inverse autoregressive flow
    (ccLinIAF; Tomczak & Welling 2017). It preserves volumes.

    The flow costs one product with an M x M matrix, and its inverse one triangular system. In many
    dimensions that system can be so ill-conditioned that the density of any value but its own draws is only
    rounding error. For a VampPrior in many dimensions use another flow.

    Args:
        latent_dim: the number of latent dimensions M.
        combinations: the number of matrices L_k.

    Raises:
        InputError: when a count is below 1.

    Examples:
        >>> from pyrovae.flows import ConvexCombination
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import FlowPosterior
        >>> posterior = FlowPosterior(MLP((1, 8, 8), 64), 2, ConvexCombination(2))
    """

    cells: Tensor
    identity: Tensor

    def __init__(self, latent_dim: int, combinations: int = 5) -> None:
        check_counts(latent_dim=latent_dim, combinations=combinations)
        self.entries = latent_dim * (latent_dim - 1) // 2
        super().__init__(latent_dim, combinations * (self.entries + 1))
        self.combinations = combinations
        self.register_buffer("cells", triangle_cells(latent_dim, diagonal=False), persistent=False)
        self.register_buffer("identity", torch.eye(latent_dim), persistent=False)

    def forward(self, context: Tensor) -> list[Transform]:
        """Return one transform, for a context `(*leading, context_dim)`."""
        entries, logits = self._split(context)
        # The weights sum to 1, so the ones on the diagonal stay ones, and only the entries below are mixed.
        mixed = (logits.softmax(-2) * entries).sum(-2)
        return [UnitTriangular(self.identity + lower_triangle(mixed, self.cells, self.latent_dim))]

    def strengths(self, context: Tensor) -> Tensor:
        """Return the entries of the L_k below the diagonal, `(*leading, combinations, M (M - 1) / 2)`."""
        return self._split(context)[0]

    def _split(self, context: Tensor) -> list[Tensor]:
        steps = context.unflatten(-1, (self.combinations, self.entries + 1))
        return list(steps.split((self.entries, 1), -1))


class UnitTriangular(Transform):
    """f(z) = L z with a lower triangular L that has ones on the diagonal.

    Args:
        matrix: L, `(*leading, M, M)`.
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def _call(self, x: Tensor) -> Tensor:
        return torch.einsum("...ij,...j->...i", self.matrix, x)

    def _inverse(self, y: Tensor) -> Tensor:
        column = y.unsqueeze(-1)
        solved = torch.linalg.solve_triangular(self.matrix, column, upper=False, unitriangular=True)
        return solved.squeeze(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return zeros, `(*leading,)`."""
        return x.new_zeros(x.shape[:-1])
