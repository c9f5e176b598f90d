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
from pyrovae.evaluation.pareto import SMALLEST_SAMPLE, pareto_khat
from pyrovae.programs.log_weights import Scores
from pyrovae.programs.repeats import all_equal

_MANY = 0.2  # the share of data above k-hat's limit from which on the guide is a poor proposal for all
_ROUNDINGS = 32  # roundings that the sum of a log weight is allowed


# Statistics of weights


def log_mean(log_weights: Tensor) -> Tensor:
    """Return the logarithm of the mean weight of each datum: `(K, B)` to `(B,)`."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def rounding_of(log_weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the size of differences that rounding makes between equal log weights: `(K, B)` to `(B,)`.

    Args:
        log_weights: log weights.
        dtype: the type in which they were computed.
    """
    size = log_weights.abs().nan_to_num(posinf=0.0).amax(0)
    return (_ROUNDINGS * torch.finfo(dtype).eps * size).clamp(min=1e-6)


def importance_statistics(
    scores: Scores, sizes: Sequence[int], dtype: torch.dtype = torch.double
) -> dict[str, Any]:
    """Compute estimates and diagnostics from the scores of draws, `(K, B)`.

    Args:
        scores: the log weights log p(x, z_k) - log q(z_k | x), and what else is known of the draws.
        sizes: the numbers of draws k whose importance-weighted bound L_k is reported.
        dtype: the type in which the weights were computed.

    Returns:
        `log_px`, `std_error`, `khat`, `ess`, `datum_elbo`, `datum_elbo_std_error` and `repeated`, `(B,)`
        each, and `enumerated`, as in `MarginalLikelihood`; `bounds`, the bounds `(B,)` by size. They are
        computed where the scores are, and returned on the CPU.
    """
    log_weights = scores.log_weights
    rounding = rounding_of(log_weights, dtype)
    error, ess = error_and_ess(log_weights)
    elbo_error = std_error_of_draws(scores.elbo_terms)
    repeated = torch.zeros_like(error, dtype=torch.bool)
    if scores.fingerprints is not None:
        error = unknown_if_constant(error, log_weights, rounding)
        elbo_error = unknown_if_constant(elbo_error, scores.elbo_terms, rounding)
        repeated = all_equal(scores.fingerprints) & (len(log_weights) > 1)
    columns = {
        "log_px": log_mean(log_weights),
        "std_error": error,
        "khat": pareto_khat(log_weights, rounding),
        "ess": ess,
        "datum_elbo": scores.elbo_terms.mean(0),
        "datum_elbo_std_error": elbo_error,
        "repeated": repeated,
    }
    return {
        **{name: values.cpu() for name, values in columns.items()},
        "enumerated": scores.elbo_terms is not log_weights,
        "bounds": {size: importance_weighted_bound(log_weights, size).cpu() for size in sizes},
    }


def error_and_ess(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the standard error of `log_mean` (delta method) and the effective sample size, `(B,)` each."""
    num_samples = len(log_weights)
    weights = (log_weights - log_weights.logsumexp(0)).exp()  # normalised: each column sums to 1
    inverse_ess = weights.square().sum(0)
    # var(w) / (K mean(w)^2), with the unbiased variance.
    relative = (inverse_ess - 1 / num_samples).clamp(min=0) * num_samples / max(num_samples - 1, 1)
    error = relative.sqrt() if num_samples > 1 else torch.full_like(inverse_ess, math.nan)
    return error, 1 / inverse_ess


def unknown_if_constant(error: Tensor, values: Tensor, rounding: Tensor) -> Tensor:
    """Return standard errors `(B,)`, NaN where all values `(K, B)` of a datum are equal up to rounding.

    It is for draws that may repeat. They tell nothing of what was not drawn, so the error is not 0.
    """
    low, high = values.aminmax(dim=0)
    return error.masked_fill(high - low <= rounding, math.nan)


def importance_weighted_bound(log_weights: Tensor, size: int) -> Tensor:
    """Return the bound L_k for k = `size`, averaged over disjoint groups of k draws: `(K, B)` to `(B,)`."""
    groups = len(log_weights) // size
    grouped = log_weights[: groups * size].unflatten(0, (groups, size))
    return (grouped.logsumexp(1) - math.log(size)).mean(0)


# Pareto k-hat


def khat_limit(num_samples: int) -> float:
    """Return the largest k-hat at which an error from K draws is reliable (Vehtari et al. 2024).

    Args:
        num_samples: K.

    Example:
        >>> [round(khat_limit(num_samples), 2) for num_samples in (50, 100, 1000, 5000)]
        [0.41, 0.5, 0.67, 0.7]
    """
    return min(1 - 1 / math.log10(max(num_samples, 2)), 0.7)


def num_unreliable(khat: Tensor, num_samples: int) -> int:
    """Return the number of data whose k-hat is above the limit for K = `num_samples` draws."""
    return int((khat > khat_limit(num_samples)).sum())


def is_poor_proposal(khat: Tensor, num_samples: int) -> bool:
    """Whether k-hat is above its limit for so many data that the guide is a poor proposal for all of them.

    k-hat of a datum sees the draws of that datum only. If no large weight happens to be among them, it is
    small, and it is such data whose estimates are the furthest off. So many large values count against
    the guide, and with it against the errors of all data.
    """
    return num_unreliable(khat, num_samples) > _MANY * len(khat)


class JudgedByKhat:
    """A result with importance weights of K draws for each datum, which k-hat judges."""

    khat: Tensor
    num_samples: int

    @property
    def khat_limit(self) -> float:
        """The limit of k-hat for K draws, min(1 - 1 / log10(K), 0.7) (Vehtari et al. 2024)."""
        return khat_limit(self.num_samples)

    @property
    def num_unreliable(self) -> int:
        """The number of data with k-hat above `khat_limit`."""
        return num_unreliable(self.khat, self.num_samples)

    @property
    def is_poor_proposal(self) -> bool:
        """Whether k-hat is above its limit for more than a fifth of the data.

        Then the guide is a poor proposal, and the standard errors are too small. This holds for all data:
        one whose draws miss the largest weights has a small k-hat too.
        """
        return is_poor_proposal(self.khat, self.num_samples)


def khat_line(khat: Tensor, num_samples: int) -> str:
    """Describe the k-hats of data, `(N,)`, on one line."""
    if num_samples < SMALLEST_SAMPLE:
        return f"not known (K is below {SMALLEST_SAMPLE}, too few draws to fit a tail)"
    known = khat[~khat.isnan()]
    if not len(known):
        return "could not be fitted (the weights do not vary, or have few values)"
    median = known.median().item()
    shown = f"{median:.2f}" if median < 100 else "above 100"
    above = f"{num_unreliable(khat, num_samples)} of {len(khat)} above {khat_limit(num_samples):.2f}"
    verdict = ": the guide is a poor proposal, so the errors are too small"
    return f"median {shown}, {above}{verdict if is_poor_proposal(khat, num_samples) else ''}"


def warn_if_unreliable(khat: Tensor, num_samples: int, consequence: str) -> None:
    """Warn if k-hat is above its limit for some data, or if there are too few draws for it.

    Args:
        khat: Pareto k-hat, `(N,)`.
        num_samples: K, the number of draws for each datum.
        consequence: the effect on the results, a clause of the message, for example "their standard errors
            are not reliable".
    """
    if num_samples < SMALLEST_SAMPLE:
        warn(
            f"k-hat needs at least {SMALLEST_SAMPLE} draws, and num_samples is {num_samples}: nothing says "
            "whether the guide is a good proposal and the standard errors are reliable. Use more samples."
        )
    elif count := num_unreliable(khat, num_samples):
        limit = khat_limit(num_samples)
        warn(
            f"k-hat is above {limit:.2f}, its limit for K = {num_samples}, for {count} of {len(khat)} "
            f"data: {consequence}. Use more samples, or a guide with heavier tails."
        )


# Draws that repeat


def repeats_line(repeated: Tensor, result: str) -> str:
    """Say for how many data, `(N,)`, all draws of the discrete latents are the same, and what that does.

    Args:
        repeated: whether this is so, for each datum.
        result: the result, for the text, such as "the estimate".
    """
    return (
        f"for {int(repeated.sum())} of {len(repeated)} data all draws of the discrete latents are the "
        f"same; the values that were not drawn do not enter {result}, and no error shows this"
    )


def warn_if_repeated(repeated: Tensor, num_samples: int, result: str) -> None:
    """Warn if all K draws of the discrete latents are the same for some data; see `repeats_line`."""
    if num_samples > 1 and repeated.any():
        warn(
            f"{repeats_line(repeated, result)}. Mark discrete sites of the guide with "
            'infer={"enumerate": "parallel"} to sum them out, or use more samples.'
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


def shown(error: float, digits: int = 3) -> str:
    """Return a standard error as text, or "unknown" if it is NaN."""
    return "unknown" if math.isnan(error) else f"{error:.{digits}f}"
