"""The ELBO with a classification term for labelled data, the objective of M2."""

from __future__ import annotations

from typing import Any

from pyro import poutine

from pyrovae.errors import InputError
from pyrovae.objectives.elbo import ELBO
from pyrovae.objectives.objective import Bound
from pyrovae.programs.densities import trace_log_probs
from pyrovae.programs.pair import ModelAndGuide


class SupervisedELBO(ELBO):
    """The ELBO plus alpha log q(y | x) for each labelled datum (Kingma et al. 2014, equation 9).

    Here alpha is the weight of each labelled datum. The paper's `0.1 * N` is the weight of the mean over
    labelled data, so it corresponds to `alpha = 0.1 * N / labelled`.

    Args:
        alpha: the weight of a labelled datum's classification term, at least 0.
        site: the name of the class's site in the guide.
        settings: settings of `ELBO`, such as `num_particles`.

    Raises:
        InputError: alpha is below 0. On evaluation: the guide has no such site when it is called without a
            class.
    """

    def __init__(self, alpha: float, site: str = "y", **settings: Any) -> None:
        super().__init__(**settings)
        if not alpha >= 0:
            raise InputError(f"alpha is {alpha}; it must be at least 0.")
        self.alpha, self.site = alpha, site

    def evaluate(self, pair: ModelAndGuide, *args: Any, **kwargs: Any) -> Bound:
        """Return the bound. For a call `(x, y)` it is the ELBO plus the sum of alpha log q(y | x).

        The term `q(y | x)` is that sum without alpha.
        """
        bound = super().evaluate(pair, *args, **kwargs)
        if len(args) < 2 or args[1] is None:
            return bound
        x, y = args
        # Without the class the guide runs as for unlabelled data. Conditioning then scores the label.
        trace = poutine.trace(poutine.condition(pair.guide, data={self.site: y})).get_trace(x)
        if self.site not in trace.nodes:
            raise InputError(
                f"the guide has no site '{self.site}', so there is no log q({self.site} | x) for alpha: "
                "use a guide that infers the class, as M2's does. If the model predicts the class, as a "
                f"PC-VAE's does, give the model's site a weight (weights={{'{self.site}': lambda_}})."
            )
        log_q = trace_log_probs(trace)[self.site].sum()
        name = f"q({self.site} | x)"
        return Bound(bound.loss - self.alpha * log_q, {**bound.terms, name: log_q.detach()}, (name,))
