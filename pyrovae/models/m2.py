"""M2: a VAE with a class variable that is known for some of the data (Kingma et al. 2014, section 2.2).

    for each datum n in plate `data` (N)
        y_n ~ p(y) = Cat(pi)        the class; observed where it is given
        z_n ~ p(z)                  the prior, over (M,); z describes all of x but its class
        x_n ~ p(x | z_n, y_n)       the likelihood
    guide
        y_n ~ q(y | x_n)            the classifier, where y_n is not given; enumerated, not sampled
        z_n ~ q(z | x_n, y_n)       the posterior

In this bound alone no label reaches the classifier. The objective therefore adds alpha log q(y | x) for
each labelled datum (`pyrovae.objectives.SupervisedELBO`).
"""

from __future__ import annotations

import pyro
from torch import Tensor, nn

from pyrovae.distributions import filled, masked
from pyrovae.networks import centre_of
from pyrovae.programs.parameters import program


class M2(nn.Module):
    """The M2 of a class prior, a prior, a likelihood, a classifier and a posterior.

    Args:
        class_prior: `class_prior()` is a distribution over y.
        prior: `prior()` is a distribution over z.
        likelihood: `likelihood(z, y)` is a distribution over x.
        classifier: `classifier(x)` is a distribution over y.
        posterior: `posterior(x, y)` is a distribution over z.

    Examples:
        >>> from pyrovae.classifiers import Classifier
        >>> from pyrovae.likelihoods import Bernoulli
        >>> from pyrovae.models import M2
        >>> from pyrovae.networks import MLP, WithClass
        >>> from pyrovae.posteriors import DiagonalNormal
        >>> from pyrovae.priors import Classes, StandardNormal
        >>> m2 = M2(
        ...     class_prior=Classes(10),
        ...     prior=StandardNormal(2),
        ...     likelihood=Bernoulli(WithClass(MLP(2 + 10, (1, 8, 8)), 10)),
        ...     classifier=Classifier(MLP((1, 8, 8), 10)),
        ...     posterior=DiagonalNormal(WithClass(MLP(64 + 10, 64), 10, features=MLP((1, 8, 8), 64)), 2),
        ... )
    """

    def __init__(
        self,
        class_prior: nn.Module,
        prior: nn.Module,
        likelihood: nn.Module,
        classifier: nn.Module,
        posterior: nn.Module,
    ) -> None:
        super().__init__()
        self.class_prior, self.prior, self.likelihood = class_prior, prior, likelihood
        self.classifier, self.posterior = classifier, posterior

    @program
    def model(self, x: Tensor, y: Tensor | None = None, observed: Tensor | None = None) -> None:
        """Define p(x, y, z) for data `(B, *x_shape)` and, where they are known, their classes `(B,)`."""
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", self.class_prior(), obs=y)
            z = pyro.sample("z", self.prior())
            pyro.sample("x", masked(self.likelihood(z, y), observed), obs=x)

    @program
    def guide(self, x: Tensor, y: Tensor | None = None, observed: Tensor | None = None) -> None:
        """Define q(y, z | x), or q(z | x, y) where the classes are known."""
        x = filled(x, observed, centre_of(self.likelihood))
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", self.classifier(x), infer={"enumerate": "parallel"})
            pyro.sample("z", self.posterior(x, y))
