"""The Bernoulli likelihood."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyrovae.likelihoods.base import Likelihood


class Bernoulli(Likelihood):
    """p(x | z) = prod_d Bernoulli(x_d; sigmoid(network(z)_d)), for pixels that are 0 or 1.

    Args:
        network: maps z to the logits of the pixels. It declares its `out_shape`, the event shape of the
            data.

    Raises:
        InputError: when the network has no `out_shape`.

    Examples:
        >>> import torch
        >>> from pyrovae.likelihoods import Bernoulli
        >>> from pyrovae.networks import MLP
        >>> likelihood = Bernoulli(MLP(2, (1, 8, 8)))
        >>> likelihood(torch.zeros(5, 2)).log_prob(torch.ones(5, 1, 8, 8)).shape
        torch.Size([5])
    """

    pixels = "binary"

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """Return p(x | z), with batch shape `leading` and event shape `x_shape`.

        Args:
            context: z, `(*leading, M)`; in M2 also the class y, `(*leading,)`.
        """
        logits = self.network(*context)
        return dist.Bernoulli(logits=logits).to_event(len(self.x_shape))

    def output_at_marginals(self, x: Tensor) -> Tensor:
        """Return the logits of the frequencies of each pixel, `x_shape`, for data `(N, *x_shape)`."""
        return x.mean(0).logit(eps=1e-3)  # the bound lets a pixel that is always black change
