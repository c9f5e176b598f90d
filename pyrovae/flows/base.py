"""The base classes of flows and of their transforms."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

BELOW_ONE = 0.999
"""The most that is subtracted from 1 in a determinant. In 32-bit, one below 0.001 might round to 0."""

START_STRENGTH = 0.1
"""The strength of a flow before training, relative to torch's usual initialisation."""


class Flow(nn.Module):
    """The base class of flows. A subclass defines `forward`.

    Args:
        latent_dim: the number of latent dimensions M.
        context_dim: the size of the context that `forward` takes.

    Examples:
        >>> import torch
        >>> from torch.distributions import AffineTransform
        >>> from pyrovae.flows import Flow
        >>> class Shift(Flow):
        ...     def __init__(self, latent_dim):
        ...         super().__init__(latent_dim, context_dim=latent_dim)
        ...     def forward(self, context):
        ...         return [AffineTransform(context, 1.0, event_dim=1)]
        >>> Shift(2)(torch.ones(5, 2))[0](torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    has_inverse: ClassVar[bool] = True
    """Whether the transforms have inverses. A flow without them scores only its most recent draw."""

    def __init__(self, latent_dim: int, context_dim: int) -> None:
        super().__init__()
        self.latent_dim, self.context_dim = latent_dim, context_dim

    def forward(self, context: Tensor) -> list[Transform]:
        """Return the transforms, first to last, for a context `(*leading, context_dim)`.

        Each transform maps z, `(*leading, M)`, to the same shape.
        """
        raise NotImplementedError

    def strengths(self, context: Tensor) -> Tensor | None:
        """Return a view of the numbers in the context that are 0 if the flow is the identity.

        By default there are none, and `start_near_identity` does nothing.
        """
        return None

    @torch.no_grad()
    def start_near_identity(self, head: nn.Linear) -> None:
        """Make the flow begin near the identity.

        Args:
            head: the affine map that computes the context. The weights and biases that compute the flow's
                `strengths` are multiplied by 0.1.
        """
        for values in (head.weight.T, head.bias):
            if (strengths := self.strengths(values)) is not None:
                strengths.mul_(START_STRENGTH)


class ForwardOnly(Transform):
    """The base class of transforms without a closed-form inverse. A subclass defines `call_and_ladj`."""

    domain = codomain = constraints.real_vector
    bijective = True

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(x), `(*leading, M)`, and log |det df / dx|, `(*leading,)`."""
        raise NotImplementedError

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |det df / dx|, `(*leading,)`."""
        return self.call_and_ladj(x)[1]


@torch.no_grad()
def near_identity(zuko_module: nn.Module) -> nn.Module:
    """Make the transforms in a module of Zuko begin near the identity, and return the module.

    Zuko's affine and spline transforms are the identity where the output of their network is 0. At 0 itself
    no gradient would reach the earlier layers, so the last layer is multiplied by 0.1.
    """
    modules: list[Any] = list(zuko_module.modules())
    last = [module.hyper[-1] for module in modules if hasattr(module, "hyper")]
    last += [module.phi for module in modules if hasattr(module, "phi")]  # for M = 1 there is no network
    for parameter in nn.ModuleList(last).parameters():
        parameter.mul_(START_STRENGTH)
    return zuko_module
