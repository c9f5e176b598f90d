"""The ELBO with a classification term for labelled data, the objective of M2."""

from __future__ import annotations

import weakref
from contextlib import suppress
from functools import cached_property
from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import OneHotCategorical
from torch.nn.functional import one_hot

from pyrovae.errors import InputError
from pyrovae.objectives.elbo import ELBO
from pyrovae.objectives.objective import Bound
from pyrovae.objectives.weights import unweighted
from pyrovae.programs.classes import class_site
from pyrovae.programs.densities import trace_log_probs
from pyrovae.programs.distributions import base_of
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.rows import Arguments


class SupervisedELBO(ELBO):
    """The ELBO plus alpha log q(y | x) for each labelled datum (Kingma et al. 2014, equation 9).

    Here alpha is the weight of each labelled datum. The paper's `0.1 * N` is the weight of the mean over
    labelled data, so it corresponds to `alpha = 0.1 * N / labelled`.

    Args:
        alpha: the weight of a labelled datum's classification term, at least 0.
        site: the name of the class's site in the guide. None means the site that observes the class in the
            model, see `programs.classes.class_site`.
        settings: settings of `ELBO`, such as `num_particles`.

    Raises:
        InputError: alpha is below 0. On evaluation: the guide has no such site when it is called without a
            class.
    """

    own_weights = ("alpha",)  # which a resumed run may change

    def __init__(self, alpha: float, site: str | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        if not alpha >= 0:
            raise InputError(f"alpha is {alpha}; it must be at least 0.")
        self.alpha, self.site = alpha, site

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_sites"}

    @cached_property
    def _sites(self) -> weakref.WeakKeyDictionary[Any, str]:
        """The class's site by the owner of the model."""
        return weakref.WeakKeyDictionary()

    def evaluate(self, pair: ModelAndGuide, *args: Any, **kwargs: Any) -> Bound:
        """Return the bound. For a call `(x, y)` it is the ELBO plus the sum of alpha log q(y | x).

        The term `q(y | x)` is that sum without alpha. y holds the classes as whole numbers, or as the
        site's values, such as one-hot vectors.
        """
        bound = super().evaluate(pair, *args, **kwargs)
        if len(args) < 2 or args[1] is None:
            return bound
        x, y = args
        site = self.site or self._class_site(pair, Arguments((x,), kwargs).rows(slice(2)))
        # Without the class the guide runs as for unlabelled data. The given class is then scored.
        trace = poutine.trace(_Given(site, y)(unweighted(pair.guide))).get_trace(x, **kwargs)
        if site not in trace.nodes:
            raise InputError(
                f"the guide has no site '{site}', so there is no log q({site} | x) for alpha: "
                "use a guide that infers the class, as M2's does. If the model predicts the class, as a "
                f"PC-VAE's does, give the model's site a weight (weights={{'{site}': lambda_}})."
            )
        log_q = trace_log_probs(trace)[site].sum()
        name = f"q({site} | x)"
        weighted = trace.nodes[site]["log_prob"].sum()
        return Bound(bound.loss - self.alpha * weighted, {**bound.terms, name: log_q.detach()}, (name,))

    def _class_site(self, pair: ModelAndGuide, few: Arguments) -> str:
        model = unweighted(pair.model)
        owner = getattr(model, "__self__", model)
        with suppress(KeyError, TypeError):  # the first call, or an owner without a hash
            return self._sites[owner]
        found = class_site(model, few.args[0], few.kwargs)
        name = "y" if found is None else found.name
        with suppress(TypeError):
            self._sites[owner] = name
        return name


class _Given(Messenger):
    """A handler that observes given classes at a site. One-hot sites get them as one-hot vectors."""

    def __init__(self, name: str, classes: Tensor) -> None:
        super().__init__()
        self.name, self.classes = name, classes

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] != self.name:
            return
        fn, value = msg["fn"], self.classes
        if isinstance(base_of(fn), OneHotCategorical) and value.dim() < len(fn.shape()):
            value = one_hot(value.long(), fn.event_shape[-1]).to(base_of(fn).probs)
        msg["value"], msg["is_observed"] = value, True
