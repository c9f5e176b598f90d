"""The loss of a minibatch: the objective on each of its calls, with the sites weighted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyrovae.errors import NonFiniteError
from pyrovae.objectives.objective import Bound, Objective
from pyrovae.objectives.weights import reweight_pair
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.training.batches import Batch, Part
from pyrovae.training.non_finite import explain_non_finite
from pyrovae.training.unit import Unit

Weights = Mapping[str, float | Tensor]

ELBO_TERMS = ("kl", "reconstruction")


@dataclass(frozen=True)
class MinibatchLoss:
    """The loss of a minibatch and its terms.

    Attributes:
        pair: the model and the guide.
        objective: the objective that is evaluated on each call.
        parts: the parts of the data.
        unit: what each site counts.
        apart: the sites that have weights of their own. They are not part of the reported ELBO.
    """

    pair: ModelAndGuide
    objective: Objective
    parts: Sequence[Part]
    unit: Unit
    apart: Collection[str]

    def __call__(
        self, batch: Batch, beta: float | Tensor, weights: Weights
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss per datum, weighted and with a gradient, and its terms per datum, unweighted.

        Both are of the bound on all data, whatever the size of the minibatch (see `Unit`). They are this
        process's share of sums over all processes.
        """
        mean: Any = 0.0
        terms: dict[str, Any] = {}
        of_densities = dict.fromkeys(self.unit.densities, beta)
        for number, (args, kwargs), total in batch.calls:
            part = self.parts[number]
            counting = self.unit.counting(len(args[0]))
            weighted = reweight_pair(self.pair, of_densities | dict(weights), beta, counting)
            bound = self.objective.evaluate(weighted, *args, **kwargs)
            mean = mean + part.weight * bound.loss / total
            self._add(terms, bound, total, part.share)
        return mean, terms

    def explanation(self, what: str, batch: Batch) -> NonFiniteError:
        """Return an error that names the site at which the loss is not finite.

        Args:
            what: a name of the loss, for the message.
            batch: the minibatch. The random stream must be in the state in which its loss was computed.
        """
        return explain_non_finite(what, self.pair, *[call.arguments for call in batch.calls])

    def _add(self, terms: dict[str, Any], bound: Bound, total: int, share: float) -> None:
        """Add the terms of a call on `total` data of a part, which is a `share` of all data.

        The ELBO's two terms are per datum. Sites with weights of their own, and terms that the objective
        adds to the ELBO, are reported by name, per datum of this call.
        """
        extra = {
            name: value
            for name, value in bound.terms.items()
            if name in bound.added or (name in self.apart and name not in ELBO_TERMS)
        }
        for name in ELBO_TERMS:
            if name in bound.terms:  # Pyro's objectives report no terms
                value = bound.terms[name]
                if name == "reconstruction":
                    value = value - sum(extra[site] for site in extra if site in self.apart)
                terms[name] = terms.get(name, 0.0) + share * value / total
        terms.update({name: value / total for name, value in extra.items()})
