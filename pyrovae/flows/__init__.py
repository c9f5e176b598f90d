"""Amortised flows: modules whose `forward(context)` returns the transforms that turn the encoder's normal
distribution into a richer posterior.

    z_0 ~ N(loc(x), diag(scale(x)^2)),   z_k = f_k(z_k-1; context(x)),
    log q(z_K | x) = log N(z_0) - sum_k log |det df_k / dz_k-1|         (Rezende & Mohamed 2015, equation 7)

A posterior scores what it has just drawn, so the cheap direction of each flow here is the one from z_0 to
z_K. Scoring any other z needs the inverse, which each docstring says the price of.

The context is either the parameters of the transforms themselves (Planar, Radial, Householder, Sylvester,
ConvexCombination: then the flow has no parameters of its own), or an input of networks that the flow owns
(InverseAutoregressive, SplineCoupling).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from pyro.distributions.transforms.householder import ConditionedHouseholder
from pyro.distributions.transforms.radial import ConditionedRadial
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from torch.nn import functional

from pyrovae.distributions.zuko_import import zuko
from pyrovae.errors import InputError, check_counts

_BELOW_ONE = 0.999  # keeps determinants above 0.001, where 32-bit numbers would round them to 0
_SMALL = 0.1  # where a flow starts, relative to torch's usual initialisation


class Flow(nn.Module):
    """What every flow has.

    Args:
        latent_dim: M.
        context_dim: size of the context that `forward` takes.
    """

    def __init__(self, latent_dim: int, context_dim: int) -> None:
        super().__init__()
        self.latent_dim, self.context_dim = latent_dim, context_dim

    def forward(self, context: Tensor) -> list[Transform]:
        """For a context `(*leading, context_dim)`: the transforms of z `(*leading, M)`, first to last."""
        raise NotImplementedError

    @torch.no_grad()
    def start_near_identity(self, head: nn.Linear) -> None:
        """Shrink what the context's affine map begins with, where the flow is the identity at 0."""
        for values in (head.weight.T, head.bias):
            if (strengths := self._strengths(values)) is not None:
                strengths.mul_(_SMALL)

    def _strengths(self, context: Tensor) -> Tensor | None:
        """A view of those numbers in the context that vanish where the flow is the identity."""
        return None


class _WithoutInverse(Transform):
    """A transform with value and log-determinant from one pass, and no inverse in closed form."""

    domain = codomain = constraints.real_vector
    bijective = True

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call_and_ladj(x)[1]


class Planar(Flow):
    """f(z) = z + u tanh(w^T z + b), step after step (Rezende & Mohamed 2015, equation 10).

    From z_0 to z_K it costs two products of vectors for each step; there is no inverse, so only its own
    draws can be scored.

    Args:
        latent_dim: M.
        steps: K.
    """

    def __init__(self, latent_dim: int, steps: int = 10) -> None:
        check_counts(latent_dim=latent_dim, steps=steps)
        super().__init__(latent_dim, steps * (2 * latent_dim + 1))
        self.steps = steps

    def forward(self, context: Tensor) -> list[Transform]:
        """For a context `(*leading, context_dim)`: a transform for each step."""
        parts = (part.unbind(-2) for part in self._split(context))
        return [_Planar(u, w, b) for u, w, b in zip(*parts, strict=True)]

    def _split(self, context: Tensor) -> tuple[Tensor, ...]:
        """u, w and b: `(*leading, K, M)`, twice, and `(*leading, K, 1)`."""
        steps = context.unflatten(-1, (self.steps, 2 * self.latent_dim + 1))
        return steps.split((self.latent_dim, self.latent_dim, 1), -1)

    def _strengths(self, context: Tensor) -> Tensor:
        return self._split(context)[0]


class _Planar(_WithoutInverse):
    """Pyro's `ConditionedPlanar` is not used: it keeps w^T u above -1 by m(a) = -1 + softplus(a), as does
    appendix A.1 of the paper. As m(0) is not 0, that moves u by -0.3 w / |w|^2: at u = 0 it is no identity,
    and near w = 0 it and its gradient have a pole. And in 32-bit m rounds to -1, where the log-determinant
    can be minus infinity. Here m(0) = 0 and m'(0) = 1, so that u moves by O(|u|^2 |w|), and m > -1.
    """

    def __init__(self, u: Tensor, w: Tensor, b: Tensor) -> None:
        super().__init__()
        free = (u * w).sum(-1, keepdim=True)
        self.inner = _BELOW_ONE * functional.elu(free / _BELOW_ONE)  # w^T u, as it will be
        length = w.square().sum(-1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny)
        self.u, self.w, self.b = u + (self.inner - free) * w / length, w, b

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh((self.w * x).sum(-1, keepdim=True) + self.b)
        return x + self.u * h, torch.log1p((1 - h.square()) * self.inner).squeeze(-1)


class Radial(Flow):
    """f(z) = z + beta (z - c) / (alpha + |z - c|), step after step (Rezende & Mohamed 2015, equation 14).

    From z_0 to z_K it costs one norm for each step; there is no inverse, so only its own draws can be
    scored.

    Args:
        latent_dim: M.
        steps: K.
    """

    def __init__(self, latent_dim: int, steps: int = 10) -> None:
        check_counts(latent_dim=latent_dim, steps=steps)
        super().__init__(latent_dim, steps * (latent_dim + 2))
        self.steps = steps

    def forward(self, context: Tensor) -> list[Transform]:
        """For a context `(*leading, context_dim)`: a transform for each step."""
        parts = (part.unbind(-2) for part in self._split(context))
        # Of its last two numbers Pyro's makes alpha > 0 and beta > -alpha; where they are equal, beta is 0.
        return [
            ConditionedRadial((c, alpha, alpha + change)) for c, alpha, change in zip(*parts, strict=True)
        ]

    def _split(self, context: Tensor) -> tuple[Tensor, ...]:
        """`(*leading, K, M)` and, twice, `(*leading, K, 1)`."""
        return context.unflatten(-1, (self.steps, self.latent_dim + 2)).split((self.latent_dim, 1, 1), -1)

    def _strengths(self, context: Tensor) -> Tensor:
        return self._split(context)[2]


class Householder(Flow):
    """Reflections f(z) = z - 2 v (v^T z) / |v|^2, one after another (Tomczak & Welling 2016).

    Volume-preserving, and cheap both ways. With the base's diagonal covariance it gives a normal
    distribution whose covariance has turned axes.

    Args:
        latent_dim: M.
        steps: how many reflections; M make any rotation, or its mirror image.
    """

    def __init__(self, latent_dim: int, steps: int = 8) -> None:
        check_counts(latent_dim=latent_dim, steps=steps)
        super().__init__(latent_dim, steps * latent_dim)
        self.steps = steps

    def forward(self, context: Tensor) -> list[Transform]:
        """For a context `(*leading, context_dim)`: one transform with all reflections."""
        return [reflections(context.unflatten(-1, (self.steps, self.latent_dim)))]


def reflections(normals: Tensor) -> Transform:
    """z -> z - 2 v (v^T z) / |v|^2 for each of the normals v in turn, `(*leading, steps, M)`."""
    # Pyro divides by |v|: in place of a v of zeros, as from a head that begins at 0, take one of ones.
    is_zero = (normals == 0).all(-1, keepdim=True)
    return ConditionedHouseholder(normals + is_zero.to(normals))


class ConvexCombination(Flow):
    """f(z) = sum_k y_k L_k z, with lower triangular L_k that have ones on the diagonal and a softmax's y:
    the convex-combination linear inverse autoregressive flow (ccLinIAF; Tomczak & Welling 2017).

    Volume-preserving. From z_0 to z it costs one product with an M x M matrix, back one triangular system,
    which in many dimensions can be so ill-conditioned that a foreign value's density is nothing but
    rounding: in a VampPrior prefer another flow there.

    Args:
        latent_dim: M.
        combinations: how many L_k.
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
        """For a context `(*leading, context_dim)`: one transform."""
        entries, logits = self._split(context)
        mixed = (logits.softmax(-2) * entries).sum(-2)  # of the entries: the ones stay ones
        return [_UnitTriangular(self.identity + lower_triangle(mixed, self.cells, self.latent_dim))]

    def _split(self, context: Tensor) -> list[Tensor]:
        steps = context.unflatten(-1, (self.combinations, self.entries + 1))
        return list(steps.split((self.entries, 1), -1))

    def _strengths(self, context: Tensor) -> Tensor:
        return self._split(context)[0]


class _UnitTriangular(Transform):
    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def _call(self, x: Tensor) -> Tensor:
        return torch.einsum("...ij,...j->...i", self.matrix, x)

    def _inverse(self, y: Tensor) -> Tensor:
        column = y.unsqueeze(-1)
        return torch.linalg.solve_triangular(self.matrix, column, upper=False, unitriangular=True).squeeze(
            -1
        )

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])


class InverseAutoregressive(Flow):
    """f(z)_m = shift_m + scale_m z_m, both from a masked network of z_1, ..., z_m-1 and the context (IAF;
    Kingma et al. 2016, algorithm 1), with the dimensions in the opposite order from step to step.

    From z_0 to z_K it costs one pass of a network for each step; back, M passes for each step, one after
    another. Zuko's masked autoregressive transform is used in its cheap direction. (Where the paper's code
    has scale = sigmoid(s), shift = (1 - scale) m, Zuko's scale is the exponential of a bounded number.)

    Args:
        latent_dim: M.
        steps: K.
        hidden: widths of each step's network.
        context: size of what the encoder tells each step.
    """

    def __init__(
        self, latent_dim: int, steps: int = 4, hidden: Sequence[int] = (128, 128), context: int = 64
    ) -> None:
        check_counts(latent_dim=latent_dim, steps=steps, context=context)
        super().__init__(latent_dim, context)
        order = torch.arange(latent_dim)
        self.steps = nn.ModuleList(
            _near_identity(
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
        """For a context `(*leading, context_dim)`: a transform for each step."""
        return [step(context) for step in self.steps]


class SplineCoupling(Flow):
    """Monotone rational-quadratic splines of each z_m on [-bound, bound], the identity beyond: those of one
    half of the dimensions from a network of the context, those of the other half from a network of the
    context and the first half. The halves change places from step to step (Durkan et al. 2019, section 3).

    From z_0 to z_K it costs one pass of a network for each step, back two.

    Args:
        latent_dim: M.
        steps: K.
        hidden: widths of each step's network.
        bins: pieces of a spline.
        context: size of what the encoder tells each step.
        bound: where the splines end.
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
            _near_identity(
                # As Zuko's own spline flow, a masked transform of two generations rather than its coupling
                # transform: that one looks its mask up anew each time, which a compiled step cannot.
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
        """For a context `(*leading, context_dim)`: a transform for each step."""
        return [step(context) for step in self.steps]


def _second_half_sees_first(latent_dim: int, turn: int) -> Tensor:
    """Which dimension depends on which, `(M, M)`; the second half are the odd ones, then the even ones."""
    second = torch.arange(latent_dim) % 2 != turn
    return torch.eye(latent_dim, dtype=torch.bool) | (second[:, None] & ~second)


def _near_identity(step: Any) -> nn.Module:
    """Zuko's transforms are the identity where their network's output is 0."""
    with torch.no_grad():
        for parameter in step.hyper[-1].parameters():
            parameter.mul_(_SMALL)
    return step


def triangle_cells(size: int, diagonal: bool = True) -> Tensor:
    """Where the entries of a lower triangle go in a flattened `(size, size)` matrix, row by row."""
    rows, columns = torch.tril_indices(size, size, 0 if diagonal else -1)
    return rows * size + columns


def lower_triangle(entries: Tensor, cells: Tensor, size: int) -> Tensor:
    """Matrices `(*, size, size)` from the entries of their lower triangles, `(*, len(cells))`."""
    flat = entries.new_zeros(*entries.shape[:-1], size * size)
    return flat.index_copy(-1, cells, entries).unflatten(-1, (size, size))
