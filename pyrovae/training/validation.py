"""Validation: the bound on held-out data, and the choice of the best epoch by it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pyro import poutine

from pyrovae.compute.devices import seeded
from pyrovae.objectives.elbo import ELBO
from pyrovae.objectives.importance import IWAE
from pyrovae.objectives.weights import reweight_pair
from pyrovae.programs.checks import check_pair
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.rows import Arguments
from pyrovae.training.batches import Minibatches, Rows, most_at_once
from pyrovae.training.history import History
from pyrovae.training.non_finite import explain_non_finite
from pyrovae.training.settings import Numbers, Settings
from pyrovae.training.unit import Unit


def competing_bound(row: Mapping[str, float], numbers: Numbers) -> float:
    """Return the bound on validation data that training maximises, with these weights of sites.

    A latent site's own weight does not enter it. The history has only the sum of all divergences, and its
    weight is beta.

    Args:
        row: a row of the history.
        numbers: beta and the weights of sites.
    """
    if "validation_bound" in row:  # an importance-weighted bound, which has no weights of sites
        return row["validation_bound"]
    weighted = sum(weight * row.get(f"validation_{site}", 0.0) for site, weight in numbers.weights.items())
    return row["validation_elbo"] + (1 - numbers.beta) * row["validation_kl"] + weighted


@dataclass
class Validation:
    """The bound on validation data after each epoch, and the best epoch's parameters.

    Attributes:
        pair: the pair that is trained.
        data: the validation data.
        settings: the run's settings.
        unit: what each site counts.
        batch_size: the number of data in a minibatch of training, which limits those measured at once.
        best_state: the state of the pair after the best epoch; None before there is one.
    """

    pair: ModelAndGuide
    data: Minibatches
    settings: Settings
    unit: Unit
    batch_size: int
    best_state: dict[str, Any] | None = None

    def bounds(self, epoch: int) -> dict[str, float]:
        """Return the columns of the history that the validation data give, in nats per datum.

        They are `validation_elbo` and `validation_kl`. With `IWAE` there is also `validation_bound`, the
        importance-weighted bound, which may rise while the ELBO falls. Both are then measured with the same
        K draws, on minibatches of the training's size, since K draws need much memory. The random draws are
        the same at every call. What lies outside of the data's plate counts 1/N, with N training data.

        Observed sites with weights of their own are not part of the ELBO. `validation_y` is the sum of y's
        log densities, divided by the number of all validation data, like all other columns.

        Raises:
            NonFiniteError: the bound is not finite. The message names the epoch and the site.
        """
        objective = self.settings.bound
        importance = objective if isinstance(objective, IWAE) else None
        scored = importance or ELBO()
        check = self.data.source.stream and epoch == 1
        size = self.batch_size if importance else self.unit.chunk(self._size)
        bound = 0.0
        sums = {"elbo": 0.0, "kl": 0.0}
        with torch.no_grad(), evaluating(self.pair), seeded(self.settings.seed, self.data.device):
            for arguments in self.data.in_order(size, check):
                args, kwargs = arguments
                if check:
                    with seeded(0, self.data.device):
                        check_pair(self.pair, *args, **kwargs)
                counting = self.unit.counting(len(args[0]), in_training=False)
                found = scored.evaluate(reweight_pair(self.pair, {}, counting=counting), *args, **kwargs)
                if not math.isfinite(value := -float(found.loss)):
                    raise explain_non_finite(f"the validation bound of epoch {epoch}", self.pair, arguments)
                bound += value
                apart = self.settings.weight_schedules
                weighted = {name: float(found.terms[name]) for name in apart if name in found.terms}
                kl = float(found.terms["kl"])
                elbo = float(found.terms["reconstruction"]) - sum(weighted.values()) - kl
                for name, term in {"elbo": elbo, "kl": kl, **weighted}.items():
                    sums[name] = sums.get(name, 0.0) + term
        num_data = len(self.data.source)
        row = {f"validation_{name}": total / num_data for name, total in sums.items()}
        return row | {"validation_bound": bound / num_data} if importance else row

    @cached_property
    def _size(self) -> int:
        """The number of data to measure the ELBO on at once.

        Without gradients it may be larger than in training, but each datum takes as much memory as its
        enumerated sites have values.
        """
        # As many as in training, since a program that subsamples does not run on a single datum.
        few = [part.indices[: self.batch_size] for part in self.data.parts]
        rows = [Rows(indices, torch.zeros_like(indices)) for indices in few]
        with torch.no_grad(), evaluating(self.pair), seeded(0, self.data.device):
            calls = self.data.batch(rows, shared=False).calls
            values = max(_number_of_values(self.pair, call.arguments) for call in calls)
        return max(self.batch_size, most_at_once(self.batch_size) // values)

    def competing(self, row: Mapping[str, float]) -> float:
        """Return the bound that ranks the epochs, with the weights at the end of the last epoch."""
        return competing_bound(row, self.settings.final_numbers())

    def note(self, history: History, of_pair: Callable[[], dict[str, Any]]) -> None:
        """Keep the newest epoch if it is the best one, and stop the run if patience has run out.

        Args:
            history: the history, with the epoch's row.
            of_pair: a function that returns the state of the pair.
        """
        row, best = history.rows[-1], history.best_epoch
        if best is None or self.competing(row) > self.competing(history.rows[best - 1]):
            history.best_epoch = int(row["epoch"])
            self.best_state = copy.deepcopy(of_pair())
        history.stopped_early = history.exceeds(self.settings.patience)


def _number_of_values(pair: ModelAndGuide, arguments: Arguments) -> int:
    """Return for how many values of its enumerated sites together the pair runs."""
    args, kwargs = arguments
    guide_trace = poutine.trace(pair.guide).get_trace(*args, **kwargs)
    model_trace = poutine.trace(poutine.replay(pair.model, trace=guide_trace)).get_trace(*args, **kwargs)
    enumerated = {
        name: site["fn"].enumerate_support(expand=False)
        for trace in (model_trace, guide_trace)
        for name, site in trace.nodes.items()
        if site.get("infer", {}).get("enumerate") == "parallel" and not site["is_observed"]
    }
    return math.prod(len(values) for values in enumerated.values())
