"""Any flow of Zuko as a posterior."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.distributions import ZukoFlow
from pyrovae.distributions.zuko_import import zuko
from pyrovae.errors import InputError
from pyrovae.networks import out_shape_of


class ZukoPosterior(nn.Module):
    """q(z | x) by a flow of Zuko with a context (https://zuko.readthedocs.io).

    Zuko's flows are made to score: their transform maps z to noise, and they draw by its inverse. An
    autoregressive flow draws in M passes, one after another. With `invert`, the transform maps noise to z
    instead. MAF then becomes IAF, which draws and scores its draws in one pass.

    Args:
        network: maps x to features, in M2 x and y to features.
        flow: a flow of `zuko.flows`, with M `features` and a `context` of the size of the network's
            features.
        invert: draw by the transform of the flow, not by its inverse.

    Raises:
        InputError: when `flow` is not a flow of Zuko, or its context does not have the size of the
            network's features.

    Examples:
        >>> import torch
        >>> from pyrovae.distributions.zuko_import import zuko
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import ZukoPosterior
        >>> flow = zuko.flows.MAF(features=2, context=64)
        >>> posterior = ZukoPosterior(MLP((1, 8, 8), 64), flow, invert=True)
        >>> posterior(torch.zeros(5, 1, 8, 8)).rsample().shape
        torch.Size([5, 2])
    """

    def __init__(self, network: nn.Module, flow: nn.Module, invert: bool = False) -> None:
        super().__init__()
        if not isinstance(flow, zuko.lazy.Flow):
            raise InputError(
                f"{type(flow).__name__} is not a flow of Zuko: pass a flow of zuko.flows that has a "
                "transform and a base, such as zuko.flows.MAF(features=M, context=F)."
            )
        self.network, self.flow, self.invert = network, flow, invert
        self._check_context()

    @torch.no_grad()
    def _check_context(self) -> None:
        if getattr(self.network, "out_shape", None) is None:  # the first call shows if sizes agree
            return
        features = out_shape_of(self.network)
        like = next(self.flow.parameters(), torch.zeros(()))
        try:
            distribution = self.flow(like.new_zeros(*features))
            distribution.log_prob(like.new_zeros(*distribution.event_shape))
        except (RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"the {type(self.flow).__name__} does not take the network's features, {features}, as its "
                f"context ({error}): build it with context={features[0]}."
            ) from error

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """Return q(z | x), with batch shape `leading` and event shape `(M,)`.

        Args:
            context: x, `(*leading, *x_shape)`; in M2 also the class y, `(*leading,)`.
        """
        return ZukoFlow(self.flow, self.network(*context), self.invert)
