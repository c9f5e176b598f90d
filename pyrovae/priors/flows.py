"""Normalizing flows as priors. Each is one of Zuko's, and starts near N(0, I), where encoders start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyrovae.distributions.zuko_import import zuko
from pyrovae.errors import check_counts
from pyrovae.flows import near_identity
from pyrovae.priors.zuko import ZukoPrior


class RealNVP(ZukoPrior):
    """Affine coupling layers: one half of the dimensions shifts and scales the other (Dinh et al. 2017).

    The halves swap from layer to layer. Scoring and drawing cost the same.

    Args:
        latent_dim: the number of latent dimensions M.
        steps: the number of layers.
        hidden: the widths of the hidden layers of each layer's network.
        settings: further arguments of `zuko.flows.MAF`.

    Raises:
        InputError: when a count is below 1.

    Examples:
        >>> import torch
        >>> from pyrovae.priors import RealNVP
        >>> prior = RealNVP(2, steps=2, hidden=(16,))
        >>> prior().log_prob(torch.zeros(7, 2)).shape
        torch.Size([7])
    """

    def __init__(
        self, latent_dim: int, steps: int = 6, hidden: Sequence[int] = (128, 128), **settings: Any
    ) -> None:
        check_counts(latent_dim=latent_dim, steps=steps)
        # Zuko's RealNVP looks up its mask in every call, which a compiled step cannot do. Zuko's masked
        # autoregressive flow in two passes, one for each half, is a coupling too.
        flow = zuko.flows.MAF(latent_dim, transforms=steps, hidden_features=hidden, passes=2, **settings)
        super().__init__(near_identity(flow))


class SplineCoupling(ZukoPrior):
    """Coupling layers of monotone rational-quadratic splines on [-5, 5] (Durkan et al. 2019).

    One half of the dimensions determines the splines of the other half. The halves swap from layer to
    layer. Scoring and drawing cost the same.

    Args:
        latent_dim: the number of latent dimensions M.
        steps: the number of layers.
        hidden: the widths of the hidden layers of each layer's network.
        settings: further arguments of `zuko.flows.NSF`, such as `bins`.

    Raises:
        InputError: when a count is below 1.

    Examples:
        >>> import torch
        >>> from pyrovae.priors import SplineCoupling
        >>> prior = SplineCoupling(2, steps=2, hidden=(16,), bins=4)
        >>> prior().log_prob(torch.zeros(7, 2)).shape
        torch.Size([7])
    """

    def __init__(
        self, latent_dim: int, steps: int = 4, hidden: Sequence[int] = (128, 128), **settings: Any
    ) -> None:
        check_counts(latent_dim=latent_dim, steps=steps)
        flow = zuko.flows.NSF(latent_dim, transforms=steps, hidden_features=hidden, passes=2, **settings)
        super().__init__(near_identity(flow))


class MaskedAutoregressive(ZukoPrior):
    """p(z) = prod_m p(z_m | z_1, ..., z_m-1), the masked autoregressive flow (Papamakarios et al. 2017).

    The order of the dimensions is reversed from layer to layer. Scoring is all that training and evaluation
    need of a prior; it takes one pass through the network of each layer. Drawing takes M passes, one after
    another.

    Args:
        latent_dim: the number of latent dimensions M.
        steps: the number of layers.
        hidden: the widths of the hidden layers of each layer's network.
        settings: further arguments of `zuko.flows.MAF`.

    Raises:
        InputError: when a count is below 1.

    Examples:
        >>> import torch
        >>> from pyrovae.priors import MaskedAutoregressive
        >>> prior = MaskedAutoregressive(2, steps=2, hidden=(16,))
        >>> prior().log_prob(torch.zeros(7, 2)).shape
        torch.Size([7])
    """

    def __init__(
        self, latent_dim: int, steps: int = 4, hidden: Sequence[int] = (128, 128), **settings: Any
    ) -> None:
        check_counts(latent_dim=latent_dim, steps=steps)
        flow = zuko.flows.MAF(latent_dim, transforms=steps, hidden_features=hidden, **settings)
        super().__init__(near_identity(flow))
