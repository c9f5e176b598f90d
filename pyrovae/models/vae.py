"""The variational autoencoder (Kingma & Welling 2014; Rezende et al. 2014).

    for each datum n in plate `data` (N)
        z_n ~ p(z)                  the prior, over (M,)
        x_n ~ p(x | z_n)            the likelihood: the decoder network and the distribution of the pixels
    guide
        z_n ~ q(z | x_n)            the posterior: the encoder network and its distribution

The beta-VAE (Higgins et al. 2017) is the same program. Its objective weights the site `z`: `fit(vae, x,
beta=4.0)`.
"""

from __future__ import annotations

import pyro
from torch import Tensor, nn

from pyrovae.distributions import filled, masked
from pyrovae.networks import centre_of
from pyrovae.programs.parameters import program


class VAE(nn.Module):
    """The VAE of a prior, a likelihood and a posterior.

    Args:
        prior: `prior()` is a distribution over z.
        likelihood: `likelihood(z)` is a distribution over x.
        posterior: `posterior(x)` is a distribution over z.

    Examples:
        >>> from pyrovae.likelihoods import Bernoulli
        >>> from pyrovae.models import VAE
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import DiagonalNormal
        >>> from pyrovae.priors import StandardNormal
        >>> vae = VAE(
        ...     prior=StandardNormal(2),
        ...     likelihood=Bernoulli(MLP(2, (1, 8, 8))),
        ...     posterior=DiagonalNormal(MLP((1, 8, 8), 64), 2),
        ... )
    """

    def __init__(self, prior: nn.Module, likelihood: nn.Module, posterior: nn.Module) -> None:
        super().__init__()
        self.prior, self.likelihood, self.posterior = prior, likelihood, posterior

    @program
    def model(self, x: Tensor, y: Tensor | None = None, observed: Tensor | None = None) -> None:
        """Define p(x, z) for data `(B, *x_shape)`. The classes `y` are not used."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", masked(self.likelihood(z), observed), obs=x)

    @program
    def guide(self, x: Tensor, y: Tensor | None = None, observed: Tensor | None = None) -> None:
        """Define q(z | x) for data `(B, *x_shape)`."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(filled(x, observed, centre_of(self.likelihood))))
