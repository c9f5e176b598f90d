"""The continuous Bernoulli likelihood."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyrovae import distributions
from pyrovae.likelihoods.base import Likelihood


class ContinuousBernoulli(Likelihood):
    """p(x | z) with the normalised density of Loaiza-Ganem & Cunningham (2019), for pixels in [0, 1].

    Args:
        network: maps z to the logits of the pixels. It declares its `out_shape`, the event shape of the
            data.

    Raises:
        InputError: when the network has no `out_shape`.

    Examples:
        >>> import torch
        >>> from pyrovae.likelihoods import ContinuousBernoulli
        >>> from pyrovae.networks import MLP
        >>> likelihood = ContinuousBernoulli(MLP(2, (1, 8, 8)))
        >>> likelihood(torch.zeros(5, 2)).log_prob(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5])
    """

    pixels = "grey"

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """Return p(x | z), with batch shape `leading` and event shape `x_shape`.

        Args:
            context: z, `(*leading, M)`; in M2 also the class y, `(*leading,)`.
        """
        logits = self.network(*context)
        return distributions.ContinuousBernoulli(logits=logits).to_event(len(self.x_shape))

    def output_at_marginals(self, x: Tensor) -> Tensor:
        """Return the logits at which each pixel has its mean, `x_shape`, in data `(N, *x_shape)`."""
        mean = x.mean(0).clamp(0.01, 0.99)
        low, high = torch.full_like(mean, -200.0), torch.full_like(mean, 200.0)
        for _ in range(40):  # bisection, as the inverse of the mean has no closed form
            middle = (low + high) / 2
            below = distributions.ContinuousBernoulli(logits=middle).mean < mean
            low, high = middle.where(below, low), high.where(below, middle)
        return (low + high) / 2
