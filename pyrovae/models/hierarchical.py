"""The VAE with two levels of latents (Tomczak & Welling 2018, section 4).

    for each datum n in plate `data` (N)
        z2_n ~ p(z2)                        the prior, over (M2,)
        z1_n ~ p(z1 | z2_n)                 the latents' own likelihood, over (M1,)
        x_n ~ p(x | z1_n, z2_n)             the likelihood, of both levels
    guide
        z2_n ~ q(z2 | x_n)                  from the top down, as in the model,
        z1_n ~ q(z1 | x_n, z2_n)            so that z1 is inferred knowing z2

A second level easily stays unused: a decoder that reads z1 alone can do without it. Here both levels have
an arrow to x and one from x of their own, and the paper's prior over z2 is a VampPrior through q(z2 | x).
"""

from __future__ import annotations

import pyro
from torch import Tensor, nn

from pyrovae.programs.parameters import program


class HierarchicalVAE(nn.Module):
    """A prior, a distribution of one level of latents given the other, a likelihood and two posteriors.

    Args:
        prior: `prior()` is a distribution over z2.
        latent: `latent(z2)` is a distribution over z1, such as `posteriors.DiagonalNormal` makes.
        likelihood: `likelihood(z1, z2)` is a distribution over x.
        posterior2: `posterior2(x)` is a distribution over z2.
        posterior1: `posterior1(x, z2)` is a distribution over z1.
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
    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """p(x, z1, z2) for data `(B, *x_shape)`; there is no use for the classes `y`."""
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", self.prior())
            z1 = pyro.sample("z1", self.latent(z2))
            pyro.sample("x", self.likelihood(z1, z2), obs=x)

    @program
    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """q(z1, z2 | x) for data `(B, *x_shape)`."""
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", self.posterior2(x))
            pyro.sample("z1", self.posterior1(x, z2))
