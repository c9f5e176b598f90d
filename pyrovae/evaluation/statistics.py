"""Statistics of importance weights and of Monte-Carlo means.

Log weights are `(K, B)`: K draws for each of B data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyrovae.errors import warn
from pyrovae.evaluation.arviz_adapter import pareto_khat

KHAT_LIMIT = 0.7  # above it, the estimate's error is not reliable (Vehtari et al. 2024)


# Statistics of weights


def log_mean(log_weights: Tensor) -> Tensor:
    """Return the logarithm of the mean weight of each datum: `(K, B)` to `(B,)`."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def importance_statistics(log_weights: Tensor, sizes: Sequence[int]) -> dict[str, Any]:
    """Compute estimates and diagnostics from log weights `(K, B)`.

    Args:
        log_weights: log p(x, z_k) - log q(z_k | x).
        sizes: the numbers of draws k whose importance-weighted bound L_k is reported.

    Returns:
        `log_px`, `std_error`, `ess` and `khat`, `(B,)` each, as in `MarginalLikelihood`; `bounds`, the
        bounds `(B,)` by size.
    """
    num_samples = len(log_weights)
    log_total = log_weights.logsumexp(0)
    weights = (log_weights - log_total).exp()  # normalised: each column sums to 1
    inverse_ess = weights.square().sum(0)
    # var(w) / (K mean(w)^2), with the unbiased variance.
    relative = (inverse_ess - 1 / num_samples).clamp(min=0) * num_samples / max(num_samples - 1, 1)
    return {
        "log_px": log_total - math.log(num_samples),
        "std_error": relative.sqrt() if num_samples > 1 else torch.full_like(log_total, math.nan),
        "ess": 1 / inverse_ess,
        "khat": pareto_khat(log_weights),
        "bounds": {size: importance_weighted_bound(log_weights, size) for size in sizes},
    }


def importance_weighted_bound(log_weights: Tensor, size: int) -> Tensor:
    """Return the bound L_k for k = `size`, averaged over disjoint groups of k draws: `(K, B)` to `(B,)`."""
    groups = len(log_weights) // size
    grouped = log_weights[: groups * size].unflatten(0, (groups, size))
    return (grouped.logsumexp(1) - math.log(size)).mean(0)


def num_unreliable(khat: Tensor) -> int:
    """Return the number of data with k-hat above 0.7."""
    return int((khat > KHAT_LIMIT).sum())


def warn_if_unreliable(khat: Tensor, consequence: str) -> None:
    """Warn if k-hat is above 0.7 for some data.

    Args:
        khat: Pareto k-hat, `(N,)`.
        consequence: the effect on the results of these data, a clause of the message, for example "their
            standard errors are not reliable".
    """
    if count := num_unreliable(khat):
        warn(
            f"k-hat is above {KHAT_LIMIT} for {count} of {len(khat)} data: {consequence}. "
            "Use more samples, or a guide with heavier tails."
        )


# Standard errors of means


def std_error_of_draws(values: Tensor) -> Tensor:
    """Return the Monte-Carlo error of the mean over draws: `(K, B)` to `(B,)`, NaN for one draw."""
    if len(values) == 1:  # the variance of one draw is not known: it is not 0
        return torch.full_like(values[0], math.nan)
    return values.std(0) / math.sqrt(len(values))


def mean_std_error(std_error: Tensor) -> float:
    """Return the Monte-Carlo standard error of a mean over data, from the errors `(N,)` of its terms."""
    return std_error.square().sum().sqrt().item() / len(std_error)


def data_std_error(values: Tensor) -> float:
    """Return the standard error of a mean of values `(N,)` due to the choice of data; NaN if N is 1."""
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
