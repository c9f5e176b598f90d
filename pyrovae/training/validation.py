"""The bound on data that are not trained on, by which epochs compete."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch

from pyrovae.compute.devices import seeded
from pyrovae.objectives.elbo import ELBO, Objective
from pyrovae.objectives.estimators import IWAE
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.training.batches import Minibatches
from pyrovae.training.non_finite import explain_non_finite


def held_out_bounds(
    pair: ModelAndGuide,
    objective: Objective,
    data: Minibatches,
    *,
    apart: Collection[str],
    batch_size: int,
    seed: int,
    epoch: int,
) -> dict[str, float]:
    """What a row of the history says of validation data, in nats per datum, with the same draws at every
    call: `validation_elbo`, `validation_kl` and, where importance weights are trained, `validation_bound`,
    the importance-weighted bound, which rises while the ELBO falls. The ELBO is then that of the same K
    draws, and `batch_size` data are scored at once, a training step's, as there are so many draws.

    Observed sites named in `apart`, which have weights of their own, are no part of the ELBO: `y`'s sum is
    in `validation_y`, divided, as all are, by the number of all validation data.

    Raises:
        NonFiniteError: the bound is not finite; names the epoch and the site.
    """
    importance = objective if isinstance(objective, IWAE) else None
    scored = importance or ELBO()
    bound = 0.0
    sums = {"elbo": 0.0, "kl": 0.0}
    with torch.no_grad(), evaluating(pair), seeded(seed, data.device):
        for args in data.in_order(batch_size) if importance else data.in_order():
            value = -scored.loss(pair.model, pair.guide, *args)
            if not math.isfinite(value):
                what = f"the validation bound of epoch {epoch}"
                raise explain_non_finite(what, pair, args)
            bound += value
            weighted = {name: float(scored.observed[name]) for name in apart if name in scored.observed}
            kl = float(scored.terms["kl"])
            elbo = float(scored.terms["reconstruction"]) - sum(weighted.values()) - kl
            for name, term in {"elbo": elbo, "kl": kl, **weighted}.items():
                sums[name] = sums.get(name, 0.0) + term
    row = {f"validation_{name}": total / len(data.x) for name, total in sums.items()}
    return row | {"validation_bound": bound / len(data.x)} if importance else row


def competing_bound(row: Mapping[str, float], beta: float, weights: Mapping[str, float]) -> float:
    """The bound that is trained, on validation data, if the sites' weights are these. (A latent site's own
    weight is not seen here: only the sum of all divergences is kept, and beta is their weight.)"""
    if "validation_bound" in row:  # of importance weights, into which no weights of sites enter
        return row["validation_bound"]
    weighted = sum(weight * row.get(f"validation_{site}", 0.0) for site, weight in weights.items())
    return row["validation_elbo"] + (1 - beta) * row["validation_kl"] + weighted
