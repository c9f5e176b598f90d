"""The Householder flow."""

from __future__ import annotations

from pyro.distributions.transforms.householder import ConditionedHouseholder
from torch import Tensor
from torch.distributions import Transform

from pyrovae.errors import check_counts
from pyrovae.flows.base import Flow


class Householder(Flow):
    """Reflections f(z) = z - 2 v (v^T z) / |v|^2, one after another (Tomczak & Welling 2016).

    The flow preserves volumes, and its inverse costs as much as the flow. With the diagonal covariance of
    the base it gives a normal distribution whose axes are rotated.

    Args:
        latent_dim: the number of latent dimensions M.
        steps: the number of reflections. M of them make any rotation or its mirror image.

    Raises:
        InputError: when a count is below 1.

    Examples:
        >>> from pyrovae.flows import Householder
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import FlowPosterior
        >>> posterior = FlowPosterior(MLP((1, 8, 8), 64), 2, Householder(2, steps=2))
    """

    def __init__(self, latent_dim: int, steps: int = 8) -> None:
        check_counts(latent_dim=latent_dim, steps=steps)
        super().__init__(latent_dim, steps * latent_dim)
        self.steps = steps

    def forward(self, context: Tensor) -> list[Transform]:
        """Return one transform, the product of all reflections, for a context `(*leading, context_dim)`."""
        return [householder_transform(context.unflatten(-1, (self.steps, self.latent_dim)))]


def householder_transform(normals: Tensor) -> Transform:
    """Return the transform that reflects z at the hyperplane of each normal in turn.

    Args:
        normals: the vectors v, `(*leading, steps, M)`. A vector of zeros counts as one of ones.
    """
    # Pyro divides by |v|. A v of zeros occurs where a head begins at 0.
    is_zero = (normals == 0).all(-1, keepdim=True)
    return ConditionedHouseholder(normals + is_zero.to(normals))
