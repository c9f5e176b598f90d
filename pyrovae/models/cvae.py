"""The conditional VAE (Sohn et al. 2015).

    for each datum n in plate `data` (N)
        c_n                         the condition, which is given: a class, or a part of an image
        z_n ~ p(z | c_n)            the prior network, over (M,)
        x_n ~ p(x | z_n, c_n)       the likelihood
    guide
        z_n ~ q(z | x_n, c_n)       the posterior

It is a model of log p(x | c). Nothing is assumed about c, which has no density. To complete images, let c
hold their known pixels, and tell by `observed` which pixels are to be scored: the others.
"""

from __future__ import annotations

import pyro
from torch import Tensor, nn

from pyrovae.distributions import filled, masked
from pyrovae.networks import centre_of
from pyrovae.programs.parameters import program


class CVAE(nn.Module):
    """The conditional VAE of a prior, a likelihood and a posterior.

    All functions take the condition by `given={"c": c}`, with a row for each datum.

    Args:
        prior: `prior(c)` is a distribution over z, such as a `pyrovae.posteriors.DiagonalNormal`.
        likelihood: `likelihood(z, c)` is a distribution over x.
        posterior: `posterior(x, c)` is a distribution over z.

    Examples:
        >>> import torch
        >>> from pyrovae import fit
        >>> from pyrovae.likelihoods import Bernoulli
        >>> from pyrovae.models import CVAE
        >>> from pyrovae.networks import MLP, Joined
        >>> from pyrovae.posteriors import DiagonalNormal
        >>> cvae = CVAE(
        ...     prior=DiagonalNormal(MLP(10, 64), 2),
        ...     likelihood=Bernoulli(Joined(MLP(2 + 10, (1, 8, 8)), None, None)),
        ...     posterior=DiagonalNormal(Joined(MLP(64 + 10, 64), MLP((1, 8, 8), 64), None), 2),
        ... )
        >>> x, c = torch.rand(20, 1, 8, 8).round(), torch.eye(10)[torch.arange(20) % 10]
        >>> history = fit(cvae, x, given={"c": c}, epochs=1, progress=False)
    """

    def __init__(self, prior: nn.Module, likelihood: nn.Module, posterior: nn.Module) -> None:
        super().__init__()
        self.prior, self.likelihood, self.posterior = prior, likelihood, posterior

    @program
    def model(self, x: Tensor, c: Tensor, observed: Tensor | None = None) -> None:
        """Define p(x, z | c) for data `(B, *x_shape)` and their conditions `(B, *c_shape)`."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(c))
            pyro.sample("x", masked(self.likelihood(z, c), observed), obs=x)

    @program
    def guide(self, x: Tensor, c: Tensor, observed: Tensor | None = None) -> None:
        """Define q(z | x, c) for data `(B, *x_shape)` and their conditions `(B, *c_shape)`."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(filled(x, observed, centre_of(self.likelihood)), c))
