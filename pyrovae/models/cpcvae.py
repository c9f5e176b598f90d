"""CPC-VAE, the consistent prediction-constrained VAE (Hope et al. 2020).

Its graph is that of the PC-VAE. With few labels, a PC-VAE meets its constraint by memorising them. Here the
prediction must also be right after z is decoded and encoded again. Training uses the program
`constrained_model`, which has these sites beside those of `model`, for each datum n:

    xbar_n = E[x | z_n]             the mean image of z_n
    zbar_n ~ q(z | xbar_n)          a draw of the posterior of that image
    factor `y_again`                log p(y_n | zbar_n), where the class is given
    factor `consistency`            sum_y p(y | z_n) log p(y | zbar_n), where it is not
    factor `aggregate`              -KL(p(y) || mean over n of p(y | zbar_n)), where it is not: so that the
                                    predictions have the class frequencies of p(y)

The objective weights each of them: `weights={"y": 25, "y_again": 25, "consistency": 1, "aggregate": 1}`.
All are smooth in the parameters, since predictions enter as probabilities. They constrain training and are
not part of the distribution: log p(x), samples and predictions come from `model`.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
from torch import Tensor, nn

from pyrovae.distributions import masked
from pyrovae.models.pcvae import PCVAE
from pyrovae.programs.parameters import program


class CPCVAE(PCVAE):
    """The CPC-VAE of the components of a PC-VAE and a class prior.

    Args:
        prior: `prior()` is a distribution over z.
        likelihood: `likelihood(z)` is a distribution over x.
        posterior: `posterior(x)` is a distribution over z.
        classifier: `classifier(z)` is a distribution over y.
        class_prior: `class_prior()` is a distribution over y. The predictions get its class frequencies.

    Examples:
        >>> from pyrovae.classifiers import LinearClassifier
        >>> from pyrovae.likelihoods import Bernoulli
        >>> from pyrovae.models import CPCVAE
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import DiagonalNormal
        >>> from pyrovae.priors import Classes, StandardNormal
        >>> from pyrovae.programs import Pair
        >>> cpcvae = CPCVAE(
        ...     prior=StandardNormal(2),
        ...     likelihood=Bernoulli(MLP(2, (1, 8, 8))),
        ...     posterior=DiagonalNormal(MLP((1, 8, 8), 64), 2),
        ...     classifier=LinearClassifier(2, num_classes=10),
        ...     class_prior=Classes(10),
        ... )
        >>> trained_pair = Pair(cpcvae.constrained_model, cpcvae.guide)  # for fit(trained_pair, x, y, ...)
    """

    term_labels: Mapping[str, str] = {
        **PCVAE.term_labels,
        "y_again": "log p(y | z̄), labelled data, z̄ ~ q(z | E[x | z])",
        "consistency": "Σ p(y | z) log p(y | z̄), unlabelled data",
        "aggregate": "−KL(p(y) ‖ mean of p(y | z̄)), unlabelled data",
    }

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        classifier: nn.Module,
        class_prior: nn.Module,
    ) -> None:
        super().__init__(prior, likelihood, posterior, classifier)
        self.class_prior = class_prior

    @program
    def constrained_model(self, x: Tensor, y: Tensor | None = None, observed: Tensor | None = None) -> None:
        """Define `model` with the constraints of training, for data `(B, *x_shape)` and classes `(B,)`."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pixels = self.likelihood(z)
            pyro.sample("x", masked(pixels, observed), obs=x)
            z_again = self.posterior(pixels.mean).rsample()
            prediction, prediction_again = self.classifier(z), self.classifier(z_again)
            if y is not None:
                pyro.sample("y", prediction, obs=y)
                pyro.sample("y_again", prediction_again, obs=y)
            else:
                agreement = (prediction.probs * prediction_again.logits).sum(-1)
                frequencies = prediction_again.probs.mean(-2)
                expected = self.class_prior()
                surprise = (expected.probs * (expected.logits - frequencies.log())).sum(-1, keepdim=True)
                pyro.factor("consistency", agreement)
                pyro.factor("aggregate", -surprise.expand(agreement.shape))
