"""The bound on data that are not trained on, by which epochs compete."""

from __future__ import annotations

import math

import torch

from pyrovae.batches import Minibatches
from pyrovae.estimators import IWAE
from pyrovae.non_finite import explain_non_finite
from pyrovae.objectives import ELBO, Objective
from pyrovae.programs import Program, evaluating, seeded


def held_out_bounds(
    model: Program,
    guide: Program,
    objective: Objective,
    data: Minibatches,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
) -> dict[str, float]:
    """What a row of the history says of validation data, in nats per datum, with the same draws at every
    call: `validation_elbo`, `validation_kl` and, where importance weights are trained, `validation_bound`,
    the importance-weighted bound, which rises while the ELBO falls. The ELBO is then that of the same K
    draws, and `batch_size` data are scored at once, a training step's, as there are so many draws.

    Raises:
        NonFiniteError: the bound is not finite; names the epoch and the site.
    """
    importance = objective if isinstance(objective, IWAE) else None
    scored = importance or ELBO()
    bound = elbo = kl = 0.0
    with torch.no_grad(), evaluating(model, guide), seeded(seed, data.device):
        for args in data.in_order(batch_size) if importance else data.in_order():
            value = -scored.loss(model, guide, *args)
            if not math.isfinite(value):
                what = f"the validation bound of epoch {epoch}"
                raise explain_non_finite(what, model, guide, args)
            bound += value
            kl += float(scored.terms["kl"])
            elbo += float(scored.terms["reconstruction"] - scored.terms["kl"])
    size = len(data.x)
    if importance is None:
        return {"validation_elbo": bound / size, "validation_kl": kl / size}
    return {"validation_elbo": elbo / size, "validation_kl": kl / size, "validation_bound": bound / size}


def competing_bound(row: dict[str, float]) -> float:
    """The bound that is trained, on validation data."""
    return row.get("validation_bound", row["validation_elbo"])
