"""The Sylvester flow: planar steps with several tanh in each (van den Berg et al. 2018)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Transform

from pyrovae.errors import InputError, check_choice, check_counts
from pyrovae.flows.base import BELOW_ONE, Flow, ForwardOnly
from pyrovae.flows.orthonormal import (
    GramSchmidt,
    OrthonormalColumns,
    Reflections,
    Reversals,
    matrix_product,
)
from pyrovae.flows.triangular import lower_triangle, triangle_cells

KINDS = ("orthogonal", "householder", "triangular")
"""The kinds of Q, by the names of the paper."""


class Sylvester(Flow):
    """Steps f(z) = z + Q R1 tanh(R2 Q^T z + b) (van den Berg et al. 2018, equation 13).

    Q has orthonormal columns; R1 and R2 are upper triangular. The determinant is that of a triangular
    matrix (theorem 1). The diagonals of R1 and R2 lie within (-1, 1), so each step is invertible (theorem
    2).

    Each step costs four products of matrices and vectors, two of them with Q. The inverse has no closed
    form, so the flow scores only its own draws.

    Args:
        latent_dim: the number of latent dimensions M.
        steps: the number of steps K.
        orthogonal: the kind of Q. "orthogonal": any orthonormal columns. "householder": a product of
            reflections, M x M. "triangular": the identity and the reversal of all dimensions in turn,
            M x M; only R1 and R2 depend on the datum.
        columns: the number of columns of Q, at most M. By default M / 2 for "orthogonal"; the other kinds
            always have M.
        reflections: the number of reflections of a "householder" Q.

    Raises:
        InputError: when the kind of Q is unknown, a count is below 1, or that kind of Q cannot have so many
            columns.

    Examples:
        >>> from pyrovae.flows import Sylvester
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import FlowPosterior
        >>> posterior = FlowPosterior(MLP((1, 8, 8), 64), 4, Sylvester(4, steps=2, columns=2))
    """

    has_inverse: ClassVar[bool] = False
    cells: Tensor
    on_diagonal: Tensor

    def __init__(
        self,
        latent_dim: int,
        steps: int = 4,
        orthogonal: str = "orthogonal",
        columns: int | None = None,
        reflections: int = 8,
    ) -> None:
        check_counts(latent_dim=latent_dim, steps=steps, reflections=reflections)
        self.q = _kind_of_q(orthogonal, latent_dim, columns, reflections)
        self.columns = self.q.columns
        triangle = self.columns * (self.columns + 1) // 2
        self.sizes = (triangle, triangle, self.columns, self.q.size)
        super().__init__(latent_dim, steps * sum(self.sizes))
        self.steps = steps
        cells = triangle_cells(self.columns)
        self.register_buffer("cells", cells, persistent=False)
        on_diagonal = cells // self.columns == cells % self.columns
        self.register_buffer("on_diagonal", on_diagonal, persistent=False)

    def forward(self, context: Tensor) -> list[Transform]:
        """Return one transform for each step, for a context `(*leading, context_dim)`."""
        r1, r2, b, of_q = self._split(context)
        r1, r2 = (self._upper_triangle(entries) for entries in (r1, r2))
        steps = zip(self.q.bases(of_q), r1.unbind(-3), r2.unbind(-3), b.unbind(-2), strict=True)
        return [SylvesterStep(*step) for step in steps]

    def strengths(self, context: Tensor) -> Tensor:
        """Return the entries of R1 of every step, `(*leading, K, columns (columns + 1) / 2)`."""
        return self._split(context)[0]

    def _split(self, context: Tensor) -> tuple[Tensor, ...]:
        """Return the entries of R1 and R2, b, and the numbers of Q, `(*leading, K, ...)` each."""
        return context.unflatten(-1, (self.steps, sum(self.sizes))).split(self.sizes, -1)

    def _upper_triangle(self, entries: Tensor) -> Tensor:
        # The diagonal is bounded before the entries become matrices: an operation on one matrix for each
        # datum costs as much as the network.
        entries = torch.where(self.on_diagonal, BELOW_ONE * entries.tanh(), entries)
        return lower_triangle(entries, self.cells, self.columns).mT


class SylvesterStep(ForwardOnly):
    """One Sylvester step.

    Args:
        q: the orthonormal columns.
        r1: R1, `(*leading, columns, columns)`.
        r2: R2, `(*leading, columns, columns)`.
        b: `(*leading, columns)`.
    """

    def __init__(self, q: OrthonormalColumns, r1: Tensor, r2: Tensor, b: Tensor) -> None:
        super().__init__()
        self.q, self.r1, self.r2, self.b = q, r1, r2, b
        self.diagonal = (r1 * r2).diagonal(dim1=-2, dim2=-1)

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(x), `(*leading, M)`, and log |det df / dx|, `(*leading,)`."""
        h = torch.tanh(matrix_product(self.r2, self.q.coordinates(x)) + self.b)
        moved = self.q.combine(matrix_product(self.r1, h))
        return x + moved, torch.log1p((1 - h.square()) * self.diagonal).sum(-1)


def _kind_of_q(
    name: str, latent_dim: int, columns: int | None, reflections: int
) -> GramSchmidt | Reflections | Reversals:
    check_choice("orthogonal", name, KINDS)
    if name == "orthogonal":
        return GramSchmidt(latent_dim, columns)
    if columns not in (None, latent_dim):
        raise InputError(
            f"columns is {columns}, but with orthogonal='{name}' Q always has {latent_dim} columns in "
            f"{latent_dim} dimensions: leave columns out."
        )
    return Reflections(latent_dim, reflections) if name == "householder" else Reversals(latent_dim)
