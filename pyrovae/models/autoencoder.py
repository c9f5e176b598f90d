"""The deterministic autoencoder, for contrast with the VAE.

    for each datum n in plate `data` (N)
        z_n = encoder(x_n)          the code is a function of the datum, not a random variable
        x_n ~ p(x | z_n)            the likelihood, as in the VAE
    guide
        empty, since nothing is latent

Its ELBO is the reconstruction term alone. There is no prior over codes, so the model cannot generate data.
Since the code depends on x, log p(x | encoder(x)) is not a log density of x.
"""

from __future__ import annotations

import pyro
from torch import Tensor, nn

from pyrovae.programs.parameters import program


class Autoencoder(nn.Module):
    """The autoencoder of an encoder network and a likelihood.

    Args:
        encoder: maps x, `(*leading, *x_shape)`, to z, `(*leading, M)`.
        likelihood: `likelihood(z)` is a distribution over x.

    Examples:
        >>> from pyrovae.likelihoods import Bernoulli
        >>> from pyrovae.models import Autoencoder
        >>> from pyrovae.networks import MLP
        >>> autoencoder = Autoencoder(MLP((1, 8, 8), 2), Bernoulli(MLP(2, (1, 8, 8))))
    """

    def __init__(self, encoder: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        self.encoder, self.likelihood = encoder, likelihood

    @program
    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """Define log p(x | encoder(x)), the reconstruction term, for data `(B, *x_shape)`."""
        with pyro.plate("data", len(x)):
            z = pyro.deterministic("z", self.encoder(x), event_dim=1)
            pyro.sample("x", self.likelihood(z), obs=x)

    @program
    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """Do nothing, since there is nothing to infer."""
