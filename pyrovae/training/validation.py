"""Validation: the bound on data that are not trained on, and the best epoch by it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pyrovae.compute.devices import seeded
from pyrovae.objectives.elbo import ELBO
from pyrovae.objectives.importance import IWAE
from pyrovae.programs.checks import check_pair
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.training.batches import Minibatches
from pyrovae.training.history import History
from pyrovae.training.non_finite import explain_non_finite
from pyrovae.training.settings import Numbers, Settings
from pyrovae.training.state import TrainedState


def competing_bound(row: Mapping[str, float], numbers: Numbers) -> float:
    """Return the bound that is trained, on validation data, at these weights of sites.

    A latent site's own weight has no part in it: only the sum of all divergences is kept, and beta is its
    weight.

    Args:
        row: a row of the history.
        numbers: beta and the weights of sites.
    """
    if "validation_bound" in row:  # of importance weights, into which no weights of sites enter
        return row["validation_bound"]
    weighted = sum(weight * row.get(f"validation_{site}", 0.0) for site, weight in numbers.weights.items())
    return row["validation_elbo"] + (1 - numbers.beta) * row["validation_kl"] + weighted


@dataclass
class Validation:
    """Measures the bound on validation data after each epoch, and keeps the best epoch's parameters.

    Attributes:
        pair: the pair that is trained.
        data: the validation data.
        settings: the run's settings.
        batch_size: how many data an importance-weighted bound is measured on at once.
        best_state: the state of the pair after the best epoch; None before there is one.
    """

    pair: ModelAndGuide
    data: Minibatches
    settings: Settings
    batch_size: int
    best_state: dict[str, Any] | None = None

    def bounds(self, epoch: int) -> dict[str, float]:
        """Return the columns of the history that the validation data give, in nats per datum.

        They are `validation_elbo`, `validation_kl` and, where importance weights are trained,
        `validation_bound`, the importance-weighted bound, which may rise while the ELBO falls. The ELBO is
        then that of the same K draws. As there are so many draws, it is measured on minibatches of the
        training's size. The random draws are the same at every call.

        Observed sites with weights of their own are no part of the ELBO. `validation_y` is y's sum,
        divided, as all are, by the number of all validation data.

        Raises:
            NonFiniteError: the bound is not finite; names the epoch and the site.
        """
        objective = self.settings.bound
        importance = objective if isinstance(objective, IWAE) else None
        scored = importance or ELBO()
        check = self.data.source.stream and epoch == 1
        bound = 0.0
        sums = {"elbo": 0.0, "kl": 0.0}
        with torch.no_grad(), evaluating(self.pair), seeded(self.settings.seed, self.data.device):
            for args in self.data.in_order(self.batch_size if importance else 1000, check):
                if check:
                    with seeded(0, self.data.device):
                        check_pair(self.pair, *args)
                found = scored.evaluate(self.pair, *args)
                if not math.isfinite(value := -float(found.loss)):
                    raise explain_non_finite(f"the validation bound of epoch {epoch}", self.pair, args)
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

    def competing(self, row: Mapping[str, float]) -> float:
        """Return the bound by which an epoch competes: at the weights with which the last epoch ends."""
        return competing_bound(row, self.settings.final_numbers())

    def note(self, history: History, trained: TrainedState) -> None:
        """Keep the newest epoch if it is the best one, and stop the run when patience is at its end."""
        row, best = history.rows[-1], history.best_epoch
        if best is None or self.competing(row) > self.competing(history.rows[best - 1]):
            history.best_epoch = int(row["epoch"])
            self.best_state = copy.deepcopy(trained.of_pair())
        history.stopped_early = history.exceeds(self.settings.patience)
