"""Any flow of Zuko as a prior."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import nn

from pyrovae.distributions import FromZuko
from pyrovae.errors import InputError


class ZukoPrior(nn.Module):
    """p(z) by a normalizing flow of Zuko (https://zuko.readthedocs.io).

    Args:
        flow: a flow of `zuko.flows` over `(M,)` without a context.

    Raises:
        InputError: when the flow takes a context, or is not a flow over vectors.

    Examples:
        >>> import torch
        >>> from pyrovae.distributions.zuko_import import zuko
        >>> from pyrovae.priors import ZukoPrior
        >>> prior = ZukoPrior(zuko.flows.MAF(features=2))
        >>> prior().log_prob(torch.zeros(7, 2)).shape
        torch.Size([7])
    """

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow
        self._check_flow()
        (self.latent_dim,) = flow().event_shape

    def forward(self) -> TorchDistributionMixin:
        """Return p(z), with batch shape `()` and event shape `(M,)`."""
        return FromZuko(self.flow())

    @torch.no_grad()
    def _check_flow(self) -> None:
        try:
            like = next(self.flow.parameters(), torch.zeros(()))
            distribution = self.flow()
            (latent_dim,) = distribution.event_shape
            distribution.log_prob(like.new_zeros(latent_dim))
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{type(self.flow).__name__} is not a prior over vectors ({error}): pass a flow of "
                "zuko.flows that is built with features=M and without a context."
            ) from error
