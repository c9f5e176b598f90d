"""The normal posterior with a full covariance."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.distributions import MultivariateNormal
from pyrovae.errors import check_counts
from pyrovae.flows import lower_triangle, triangle_cells
from pyrovae.networks import features_of
from pyrovae.posteriors.scales import positive


class FullCovarianceNormal(nn.Module):
    """q(z | x) = N(loc(x), L(x) L(x)^T) with a lower triangular L (Kingma & Welling 2019, section 2.5.1).

    L = diag(s) (I + N), with s > 0 and a strictly lower triangular N. At the start N is 0, and q is a
    diagonal normal. The entries of N have no unit: they say how one dimension depends on others. An
    optimiser that moved the entries of L itself would move all of them by the same amount, which is much in
    a dimension of small scale.

    Args:
        network: maps x to features, in M2 x and y to features. It declares its `out_shape`.
        latent_dim: the number of latent dimensions M.

    Raises:
        InputError: when the `out_shape` of the network is missing or not `(F,)`, or `latent_dim` is below
            1.

    Examples:
        >>> import torch
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import FullCovarianceNormal
        >>> posterior = FullCovarianceNormal(MLP((1, 8, 8), 64), latent_dim=2)
        >>> posterior(torch.zeros(5, 1, 8, 8)).covariance_matrix.shape
        torch.Size([5, 2, 2])
    """

    cells: Tensor

    def __init__(self, network: nn.Module, latent_dim: int) -> None:
        check_counts(latent_dim=latent_dim)
        super().__init__()
        self.network, self.latent_dim = network, latent_dim
        features = features_of(network)
        self.loc = nn.Linear(features, latent_dim)
        # The entries of N below the diagonal, and on the diagonal the numbers that s is computed from.
        self.scale_tril = nn.Linear(features, latent_dim * (latent_dim + 1) // 2)
        self.register_buffer("cells", triangle_cells(latent_dim), persistent=False)
        with torch.no_grad():
            off_diagonal = self.cells % latent_dim != self.cells // latent_dim
            self.scale_tril.weight[off_diagonal] = 0.0
            self.scale_tril.bias[off_diagonal] = 0.0

    def forward(self, *context: Tensor) -> TorchDistributionMixin:
        """Return q(z | x), with batch shape `leading` and event shape `(M,)`.

        Args:
            context: x, `(*leading, *x_shape)`; in M2 also the class y, `(*leading,)`.
        """
        features = self.network(*context)
        free = lower_triangle(self.scale_tril(features), self.cells, self.latent_dim)
        scale = positive(free.diagonal(dim1=-2, dim2=-1))
        scale_tril = scale.unsqueeze(-1) * free.tril(-1) + torch.diag_embed(scale)
        return MultivariateNormal(self.loc(features), scale_tril=scale_tril)
