"""The variational autoencoder (Kingma & Welling 2014; Rezende et al. 2014).

    for each datum n in plate `data` (N)
        z_n ~ p(z)                  the prior, over (M,)
        x_n ~ p(x | z_n)            the likelihood: decoder network and pixels' distribution
    guide
        z_n ~ q(z | x_n)            the posterior: encoder network and its distribution

beta-VAE (Higgins et al. 2017) is this same program: its objective weighs the site `z` (`fit(beta=4)`).
"""

from __future__ import annotations

import pyro
from torch import Tensor, nn

from pyrovae.programs.parameters import program


class VAE(nn.Module):
    """A prior, a likelihood and a posterior, composed.

    Args:
        prior: `prior()` is a distribution over z.
        likelihood: `likelihood(z)` is a distribution over x.
        posterior: `posterior(x)` is a distribution over z.
    """

    def __init__(self, prior: nn.Module, likelihood: nn.Module, posterior: nn.Module) -> None:
        super().__init__()
        self.prior, self.likelihood, self.posterior = prior, likelihood, posterior

    @program
    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """p(x, z) for data `(B, *x_shape)`; a VAE has no use for the classes `y`."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)

    @program
    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """q(z | x) for data `(B, *x_shape)`."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))
