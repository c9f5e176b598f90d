"""The deterministic autoencoder, the contrast against which a VAE is taught.

    for each datum n in plate `data` (N)
        z_n = encoder(x_n)          no distribution: the code is a function of the datum
        x_n ~ p(x | z_n)            the likelihood, as in the VAE
    guide
        nothing is latent, so nothing is inferred

Its ELBO is the reconstruction term alone. It has a code but no prior over codes: it cannot generate,
and since the code has seen x, the "likelihood" log p(x | encoder(x)) is no density of x.
"""

from __future__ import annotations

import pyro
from torch import Tensor, nn

from pyrovae.programs.parameters import program


class Autoencoder(nn.Module):
    """An encoder network and a likelihood.

    Args:
        encoder: x -> z, `(*leading, *x_shape)` to `(*leading, M)`.
        likelihood: `likelihood(z)` is a distribution over x.
    """

    def __init__(self, encoder: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        self.encoder, self.likelihood = encoder, likelihood

    @program
    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """log p(x | encoder(x)), the reconstruction term, for data `(B, *x_shape)`."""
        with pyro.plate("data", len(x)):
            z = pyro.deterministic("z", self.encoder(x), event_dim=1)
            pyro.sample("x", self.likelihood(z), obs=x)

    @program
    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """Nothing to infer."""
