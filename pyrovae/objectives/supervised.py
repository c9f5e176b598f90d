"""The ELBO with a classification term for labelled data, by which M2 is trained."""

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

    Alpha counts for each labelled datum here. The paper's `0.1 * N` multiplies the mean over labelled data,
    which is `alpha = 0.1 * N / labelled`.

    Args:
        alpha: the weight of a labelled datum's classification term, at least 0.
        site: the name of the class's site in the guide.
        settings: settings of `ELBO`, such as `num_particles`.

    Raises:
        InputError: alpha is below 0; on evaluation, when the guide has no such site if it is called without
            a class.
    """

    def __init__(self, alpha: float, site: str = "y", **settings: Any) -> None:
        super().__init__(**settings)
        if not alpha >= 0:
            raise InputError(f"alpha is {alpha}; it must be at least 0.")
        self.alpha, self.site = alpha, site

    def evaluate(self, pair: ModelAndGuide, *args: Any, **kwargs: Any) -> Bound:
        """Return the ELBO. For a call `(x, y)` its loss is less by the sum of alpha log q(y | x).

        That sum, without alpha, is the term `q(y | x)`.
        """
        bound = super().evaluate(pair, *args, **kwargs)
        if len(args) < 2 or args[1] is None:
            return bound
        x, y = args
        # The guide without the class runs as for unlabelled data; conditioning scores the label in it.
        trace = poutine.trace(poutine.condition(pair.guide, data={self.site: y})).get_trace(x)
        if self.site not in trace.nodes:
            raise InputError(
                f"the guide has no site '{self.site}', so alpha has no log q({self.site} | x) to weigh: "
                "use a guide that infers the class, as M2's does. Where the model predicts the class, as "
                f"a PC-VAE's does, weigh the model's site (weights={{'{self.site}': lambda_}})."
            )
        log_q = trace_log_probs(trace)[self.site].sum()
        name = f"q({self.site} | x)"
        return Bound(bound.loss - self.alpha * log_q, {**bound.terms, name: log_q.detach()}, (name,))
