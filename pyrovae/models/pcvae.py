"""PC-VAE, the prediction-constrained VAE (Hope et al. 2020).

    for each datum n in plate `data` (N)
        z_n ~ p(z)                  the prior, over (M,)
        x_n ~ p(x | z_n)            the likelihood
        y_n ~ p(y | z_n)            the prediction, where the class is given
    guide
        z_n ~ q(z | x_n)            the posterior; it does not depend on y_n

The class is predicted from z alone, so z must contain it. The objective weights the prediction by lambda:
`fit(pcvae, x, y, weights={"y": lambda})`. With lambda = 1 this is a supervised VAE. A large lambda is the
Lagrange multiplier of the constraint that predictions are good. The prediction is not part of log p(x).
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
from torch import Tensor, nn

from pyrovae.distributions import filled, masked
from pyrovae.networks import centre_of
from pyrovae.programs.parameters import program


class PCVAE(nn.Module):
    """The PC-VAE of a prior, a likelihood, a posterior and a classifier of latents.

    Args:
        prior: `prior()` is a distribution over z.
        likelihood: `likelihood(z)` is a distribution over x.
        posterior: `posterior(x)` is a distribution over z.
        classifier: `classifier(z)` is a distribution over y.

    Examples:
        >>> from pyrovae.classifiers import LinearClassifier
        >>> from pyrovae.likelihoods import Bernoulli
        >>> from pyrovae.models import PCVAE
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import DiagonalNormal
        >>> from pyrovae.priors import StandardNormal
        >>> pcvae = PCVAE(
        ...     prior=StandardNormal(2),
        ...     likelihood=Bernoulli(MLP(2, (1, 8, 8))),
        ...     posterior=DiagonalNormal(MLP((1, 8, 8), 64), 2),
        ...     classifier=LinearClassifier(2, num_classes=10),
        ... )
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
    def model(self, x: Tensor, y: Tensor | None = None, observed: Tensor | None = None) -> None:
        """Define p(x, z) for data `(B, *x_shape)`, times p(y | z) where their classes `(B,)` are known."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", masked(self.likelihood(z), observed), obs=x)
            if y is not None:
                pyro.sample("y", self.classifier(z), obs=y)

    @program
    def guide(self, x: Tensor, y: Tensor | None = None, observed: Tensor | None = None) -> None:
        """Define q(z | x) for data `(B, *x_shape)`. The classes `y` are not used."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(filled(x, observed, centre_of(self.likelihood))))
