"""The flow posterior."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.distributions import AmortisedFlow
from pyrovae.errors import InputError
from pyrovae.flows import Flow
from pyrovae.networks import features_of
from pyrovae.posteriors.scales import positive


class FlowPosterior(nn.Module):
    """q(z | x): a diagonal normal pushed through a flow whose transforms depend on x (`pyrovae.flows`).

    It draws and scores its draws in one pass, which is all that training and evaluation need.
    `flow.has_inverse` says whether it can also score other points.

    Args:
        network: maps x to features, in M2 x and y to features. It declares its `out_shape`.
        latent_dim: the number of latent dimensions M.
        flow: a flow of `pyrovae.flows` over M dimensions.

    Raises:
        InputError: when `flow` is not a flow of `pyrovae.flows` or is over another number of dimensions; or
            when the `out_shape` of the network is missing or not `(F,)`.

    Examples:
        >>> import torch
        >>> from pyrovae.flows import Planar
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import FlowPosterior
        >>> posterior = FlowPosterior(MLP((1, 8, 8), 64), 2, Planar(2, steps=4))
        >>> q = posterior(torch.zeros(5, 1, 8, 8))
        >>> z = q.rsample()
        >>> q.log_prob(z).shape
        torch.Size([5])
    """

    def __init__(self, network: nn.Module, latent_dim: int, flow: Flow) -> None:
        super().__init__()
        if not isinstance(flow, Flow):
            raise InputError(
                f"flow is {flow!r}; expected a flow of pyrovae.flows, such as Planar({latent_dim}). For a "
                "flow of Zuko use ZukoPosterior."
            )
        if flow.latent_dim != latent_dim:
            raise InputError(
                f"latent_dim is {latent_dim}, but the {type(flow).__name__} flow is over {flow.latent_dim} "
                "dimensions: build both with the same number."
            )
        self.network, self.latent_dim, self.flow = network, latent_dim, flow
        features = features_of(network)
        self.loc = nn.Linear(features, latent_dim)
        self.scale = nn.Linear(features, latent_dim)
        self.context = nn.Linear(features, flow.context_dim)
        flow.start_near_identity(self.context)

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """Return q(z | x), with batch shape `leading` and event shape `(M,)`.

        Args:
            context: x, `(*leading, *x_shape)`; in M2 also the class y, `(*leading,)`.
        """
        features = self.network(*context)
        base = dist.Normal(self.loc(features), positive(self.scale(features))).to_event(1)
        return AmortisedFlow(base, self.flow, self.context(features))
