"""The VAE with two levels of latents (Tomczak & Welling 2018, section 4).

    for each datum n in plate `data` (N)
        z2_n ~ p(z2)                        the prior, over (M2,)
        z1_n ~ p(z1 | z2_n)                 the lower level of latents, over (M1,)
        x_n ~ p(x | z1_n, z2_n)             the likelihood, given both levels
    guide
        z2_n ~ q(z2 | x_n)                  from the top down, as in the model
        z1_n ~ q(z1 | x_n, z2_n)            given z2

A decoder that reads z1 alone often leaves the second level unused. Here each level has its own arrow to x
and its own arrow from x. The paper's prior over z2 is a VampPrior of q(z2 | x).
"""

from __future__ import annotations

import pyro
from torch import Tensor, nn

from pyrovae.distributions import filled, masked
from pyrovae.networks import centre_of
from pyrovae.programs.parameters import program


class HierarchicalVAE(nn.Module):
    """The VAE of two levels of latents.

    Args:
        prior: `prior()` is a distribution over z2.
        latent: `latent(z2)` is a distribution over z1, such as a `pyrovae.posteriors.DiagonalNormal`.
        likelihood: `likelihood(z1, z2)` is a distribution over x.
        posterior2: `posterior2(x)` is a distribution over z2.
        posterior1: `posterior1(x, z2)` is a distribution over z1.

    Examples:
        >>> from pyrovae.likelihoods import Bernoulli
        >>> from pyrovae.models import HierarchicalVAE
        >>> from pyrovae.networks import MLP, Joined
        >>> from pyrovae.posteriors import DiagonalNormal
        >>> from pyrovae.priors import StandardNormal
        >>> vae = HierarchicalVAE(
        ...     prior=StandardNormal(2),
        ...     latent=DiagonalNormal(MLP(2, 64), 3),
        ...     likelihood=Bernoulli(Joined(MLP(3 + 2, (1, 8, 8)), None, None)),
        ...     posterior2=DiagonalNormal(MLP((1, 8, 8), 64), 2),
        ...     posterior1=DiagonalNormal(Joined(MLP(64 + 2, 64), MLP((1, 8, 8), 64), None), 3),
        ... )
    """

    def __init__(
        self,
        prior: nn.Module,
        latent: nn.Module,
        likelihood: nn.Module,
        posterior2: nn.Module,
        posterior1: nn.Module,
    ) -> None:
        super().__init__()
        self.prior, self.latent, self.likelihood = prior, latent, likelihood
        self.posterior2, self.posterior1 = posterior2, posterior1

    @program
    def model(self, x: Tensor, y: Tensor | None = None, observed: Tensor | None = None) -> None:
        """Define p(x, z1, z2) for data `(B, *x_shape)`. The classes `y` are not used."""
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", self.prior())
            z1 = pyro.sample("z1", self.latent(z2))
            pyro.sample("x", masked(self.likelihood(z1, z2), observed), obs=x)

    @program
    def guide(self, x: Tensor, y: Tensor | None = None, observed: Tensor | None = None) -> None:
        """Define q(z1, z2 | x) for data `(B, *x_shape)`."""
        x = filled(x, observed, centre_of(self.likelihood))
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", self.posterior2(x))
            pyro.sample("z1", self.posterior1(x, z2))
