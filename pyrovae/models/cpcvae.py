"""CPC-VAE, the consistent prediction-constrained VAE (Hope et al. 2020).

Its graph is the PC-VAE's. Trained on few labels, a PC-VAE meets its constraint by learning them by
heart; here the prediction also has to survive a turn through the model. The program that is trained,
`constrained_model`, adds to the PC-VAE's for each datum n

    xbar_n = E[x | z_n]             what the model makes of z_n
    zbar_n ~ q(z | xbar_n)          what the guide makes of that
    factor `y_again`                log p(y_n | zbar_n), where the class is given
    factor `consistency`            sum_y p(y | z_n) log p(y | zbar_n), where it is not
    factor `aggregate`              -KL(p(y) || mean over n of p(y | zbar_n)), where it is not: the classes
                                    are as frequent in the predictions as in p(y)

each weighed by the objective, `fit(weights={"y": 25, "y_again": 25, "consistency": 1, ...})`. All are
smooth in the parameters, since predictions enter as probabilities. They constrain training and are no
part of the distribution: for log p(x), samples and predictions, run `model`.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
from torch import Tensor, nn

from pyrovae.models.pcvae import PCVAE
from pyrovae.programs.parameters import program


class CPCVAE(PCVAE):
    """A PC-VAE with the distribution of classes that its predictions are held to.

    Args:
        prior: `prior()` is a distribution over z.
        likelihood: `likelihood(z)` is a distribution over x.
        posterior: `posterior(x)` is a distribution over z.
        classifier: `classifier(z)` is a distribution over y.
        class_prior: `class_prior()` is a distribution over y.
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
    def constrained_model(self, x: Tensor, y: Tensor | None = None) -> None:
        """`model` with the constraints of training, for data `(B, *x_shape)` and classes `(B,)`."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pixels = self.likelihood(z)
            pyro.sample("x", pixels, obs=x)
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
