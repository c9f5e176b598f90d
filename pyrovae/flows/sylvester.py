"""Sylvester flows: planar steps with more than one tanh in each (van den Berg et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Transform

from pyrovae.errors import InputError, check_counts
from pyrovae.flows import (
    _BELOW_ONE,
    Flow,
    _WithoutInverse,
    lower_triangle,
    reflections,
    triangle_cells,
)


class Sylvester(Flow):
    """f(z) = z + Q R1 tanh(R2 Q^T z + b), with orthonormal columns in Q and upper triangular R1 and R2,
    step after step (van den Berg et al. 2018, equation 13).

    From z_0 to z_K it costs four products of matrices with vectors for each step, two of them with Q; there
    is no inverse, so only its own draws can be scored. The determinant is a triangular matrix's (theorem
    1). The diagonals of R1 and R2 lie within (-1, 1), so that each step is invertible (theorem 2).

    Args:
        latent_dim: M.
        steps: how many.
        orthogonal: what Q is. "orthogonal": any orthonormal columns, by orthogonalising a matrix;
            "householder": a product of reflections, M x M; "triangular": the identity and the reversal of
            all dimensions in turn, M x M, so that only R1 and R2 depend on x.
        columns: of Q, for "orthogonal": at most M; by default half of it.
        reflections: how many, for "householder".

    Raises:
        InputError: an unknown kind of Q, a count below 1, or columns that the kind of Q does not have.
    """

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
        if orthogonal not in _SIZES_OF_Q:
            raise InputError(f"orthogonal is '{orthogonal}'; there are {', '.join(_SIZES_OF_Q)}.")
        least, default = latent_dim, latent_dim
        if orthogonal == "orthogonal":
            least, default = 1, max(1, latent_dim // 2)
        self.columns = default if columns is None else columns
        if not least <= self.columns <= latent_dim:
            raise InputError(
                f"columns is {columns}; with orthogonal='{orthogonal}', Q has from {least} to {latent_dim} "
                f"columns in {latent_dim} dimensions."
            )
        self.reflections = reflections
        triangle = self.columns * (self.columns + 1) // 2
        of_q = _SIZES_OF_Q[orthogonal](latent_dim, self.columns, reflections)
        self.sizes = (triangle, triangle, self.columns, of_q)
        super().__init__(latent_dim, steps * sum(self.sizes))
        self.steps, self.orthogonal = steps, orthogonal
        cells = triangle_cells(self.columns)
        self.register_buffer("cells", cells, persistent=False)
        on_diagonal = cells // self.columns == cells % self.columns
        self.register_buffer("on_diagonal", on_diagonal, persistent=False)

    def forward(self, context: Tensor) -> list[Transform]:
        """For a context `(*leading, context_dim)`: a transform for each step."""
        r1, r2, b, of_q = self._split(context)
        r1, r2 = (self._upper_triangle(entries) for entries in (r1, r2))
        steps = zip(self._bases(of_q), r1.unbind(-3), r2.unbind(-3), b.unbind(-2), strict=True)
        return [_Sylvester(*step) for step in steps]

    def _split(self, context: Tensor) -> tuple[Tensor, ...]:
        return context.unflatten(-1, (self.steps, sum(self.sizes))).split(self.sizes, -1)

    def _strengths(self, context: Tensor) -> Tensor:
        return self._split(context)[0]

    def _upper_triangle(self, entries: Tensor) -> Tensor:
        # Before they are a matrix: what is done to matrices for each datum costs as much as the network.
        entries = torch.where(self.on_diagonal, _BELOW_ONE * entries.tanh(), entries)
        return lower_triangle(entries, self.cells, self.columns).mT

    def _bases(self, of_q: Tensor) -> list[_Basis]:
        """Each step's Q. It is multiplied by vectors only, which a reflection does in M operations."""
        if self.orthogonal == "triangular":
            turns = nn.Identity(), partial(torch.flip, dims=(-1,))
            return [_Basis(turns[step % 2], turns[step % 2]) for step in range(self.steps)]
        if self.orthogonal == "householder":
            normals = of_q.unflatten(-1, (self.reflections, self.latent_dim))
            return [_Basis(h.inv, h) for h in map(reflections, normals.unbind(-3))]
        q = orthonormal_columns(of_q.unflatten(-1, (self.latent_dim, self.columns)))
        return [_Basis(partial(_product, step), partial(_product, step.mT)) for step in q.unbind(-3)]


class _Basis(NamedTuple):
    """Orthonormal columns Q, as what they do.

    Attributes:
        combine: v -> Q v, `(*leading, columns)` to `(*leading, M)`.
        coordinates: z -> Q^T z.
    """

    combine: Callable[[Tensor], Tensor]
    coordinates: Callable[[Tensor], Tensor]


def _product(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.einsum("...ij,...j->...i", matrix, vector)


# How many numbers of the context say what Q is, given M, its columns and the number of reflections.
_SIZES_OF_Q: dict[str, Any] = {
    "orthogonal": lambda latent_dim, columns, _: latent_dim * columns,
    "householder": lambda latent_dim, _, reflections: latent_dim * reflections,
    "triangular": lambda *_: 0,
}


def orthonormal_columns(matrix: Tensor) -> Tensor:
    """The Gram-Schmidt orthonormal columns of matrices `(*, M, K)`.

    The paper iterates Q <- Q (I + (I - Q^T Q) / 2) instead. That converges slowly from a badly conditioned
    matrix: after 20 rounds one square matrix in five, of 40 x 40 normal draws, is not there, and its
    density would be wrong. A QR decomposition is right for all, and faster.
    """
    q, r = torch.linalg.qr(matrix)
    # LAPACK picks the signs of the columns; as they stand they would jump as the matrix changes.
    return q * r.diagonal(dim1=-2, dim2=-1).sgn().unsqueeze(-2)


class _Sylvester(_WithoutInverse):
    def __init__(self, q: _Basis, r1: Tensor, r2: Tensor, b: Tensor) -> None:
        super().__init__()
        self.q, self.r1, self.r2, self.b = q, r1, r2, b
        self.diagonal = (r1 * r2).diagonal(dim1=-2, dim2=-1)

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(_product(self.r2, self.q.coordinates(x)) + self.b)
        moved = self.q.combine(_product(self.r1, h))
        return x + moved, torch.log1p((1 - h.square()) * self.diagonal).sum(-1)
