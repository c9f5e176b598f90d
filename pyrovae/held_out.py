"""The bound on data that are not trained on, by which epochs compete."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

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
    the importance-weighted bound, which rises while the ELBO falls. It is taken for `batch_size` data at
    once, a training step's, as there are K draws for each.

    Raises:
        NonFiniteError: a bound is not finite; names the epoch and the site.
    """

    def mean(bound: ELBO, minibatches: Iterator[tuple[Tensor, ...]]) -> tuple[float, float]:
        total = kl = 0.0
        with torch.no_grad(), evaluating(model, guide), seeded(seed, data.device):
            for args in minibatches:
                value = -bound.loss(model, guide, *args)
                if not math.isfinite(value):
                    what = f"the validation bound of epoch {epoch}"
                    raise explain_non_finite(what, model, guide, args)
                total += value
                kl += float(bound.terms["kl"])
        return total / len(data.x), kl / len(data.x)

    elbo, kl = mean(ELBO(), data.in_order())
    row = {"validation_elbo": elbo, "validation_kl": kl}
    if isinstance(objective, IWAE):
        row["validation_bound"], _ = mean(objective, data.in_order(batch_size))
    return row


def competing_bound(row: dict[str, float]) -> float:
    """The bound that is trained, on validation data."""
    return row.get("validation_bound", row["validation_elbo"])
