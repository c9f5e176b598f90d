"""The multivariate normal that scores its own draws without solving a system."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.distributions.scored_draw import ScoredDraw


class MultivariateNormal(dist.MultivariateNormal):
    """The normal distribution with covariance L L^T. It scores its draw loc + L e by the noise e.

    For any other value, e is the solution of a triangular system. If L is badly conditioned, the solution
    is wrong by orders of magnitude, and so is the density. In 40 dimensions, entries of 2 or 3 in L are
    enough for this.

    Args:
        loc: the mean, `(*batch_shape, M)`.
        scale_tril: L, lower triangular with a positive diagonal, `(*batch_shape, M, M)`.

    Examples:
        >>> import torch
        >>> from pyrovae.distributions import MultivariateNormal
        >>> q = MultivariateNormal(torch.zeros(5, 2), scale_tril=torch.eye(2))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([5])
    """

    _last: ScoredDraw | None = None

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return reparameterised draws, `(*sample_shape, *batch_shape, M)`, and keep their log density."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        z = self.loc + (self._unbroadcasted_scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
        scale = self._unbroadcasted_scale_tril.diagonal(dim1=-2, dim2=-1)
        log_prob = -(0.5 * (noise.square() + math.log(2 * math.pi)) + scale.log()).sum(-1)
        self._last = ScoredDraw(z, log_prob, torch.is_grad_enabled())
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of `z`, `(*leading, M)`.

        If `value` is the most recent draw, the very tensor, its log density is known already. For any other
        value, and for the gradient at a draw that is held fixed, a triangular system is solved.
        """
        last = self._last
        if last is not None and last.is_of(value) and (last.differentiable or not torch.is_grad_enabled()):
            return last.log_prob
        log_prob: Tensor = super().log_prob(value)
        return log_prob
