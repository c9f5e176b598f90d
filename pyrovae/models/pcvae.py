"""PC-VAE, the prediction-constrained VAE (Hope et al. 2020).

    for each datum n in plate `data` (N)
        z_n ~ p(z)                  the prior, over (M,)
        x_n ~ p(x | z_n)            the likelihood
        y_n ~ p(y | z_n)            the prediction factor, where the class is given
    guide
        z_n ~ q(z | x_n)            the posterior: it never sees y_n

The class is predicted from z alone, so its label has to be visible in the latent space. The objective
weighs that factor, `fit(weights={"y": lambda})`: at lambda = 1 this is a supervised VAE, and a large one
is the Lagrange multiplier of the constraint that predictions be good. log p(x) has no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
from torch import Tensor, nn

from pyrovae.programs.parameters import program


class PCVAE(nn.Module):
    """A prior, a likelihood, a posterior and a classifier of latents, composed.

    Args:
        prior: `prior()` is a distribution over z.
        likelihood: `likelihood(z)` is a distribution over x.
        posterior: `posterior(x)` is a distribution over z.
        classifier: `classifier(z)` is a distribution over y.
    """

    # Labels of the terms that training records beside the ELBO, for figures.
    term_labels: Mapping[str, str] = {"y": "log p(y | z), labelled data"}

    def __init__(
        self, prior: nn.Module, likelihood: nn.Module, posterior: nn.Module, classifier: nn.Module
    ) -> None:
        super().__init__()
        self.prior, self.likelihood = prior, likelihood
        self.posterior, self.classifier = posterior, classifier

    @program
    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """p(x, z), times p(y | z) where the classes `(B,)` of the data `(B, *x_shape)` are known."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)
            if y is not None:
                pyro.sample("y", self.classifier(z), obs=y)

    @program
    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """q(z | x), whether or not the classes are known."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))
