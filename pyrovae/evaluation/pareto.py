"""Pareto k-hat: the shape of the tail of importance weights, for many data at once.

The largest weights of a datum, less the threshold u below them, follow a generalised Pareto distribution of
shape k and scale sigma. A large k says that rare draws have most of the weight (Vehtari et al. 2024). The
fit is that of Zhang & Stephens (2009), with theta = k / sigma in the place of both:

    k(theta)   = mean_i log(1 - theta x_i),       x_1 <= ... <= x_n the tail
    l(theta)   = n [ log(-theta / k(theta)) - k(theta) - 1 ]         the profile log likelihood
    theta_hat  = sum_j theta_j exp l(theta_j) / sum_j exp l(theta_j)
    k_hat      = [ n k(theta_hat) + 10 / 2 ] / (n + 10)              drawn towards 1/2, as by 10 further x_i

with points theta_j, j = 1, ..., m, m = 30 + sqrt(n), that cover what is plausible given the tail's lower
quartile x* and its largest value:

    theta_j = 1 / x_n + [ 1 - sqrt(m / (j - 1/2)) ] / (3 x*)

The tests compare with ArviZ, which fits one datum at a time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrovae.compute.precision import in_64_bits

SMALLEST_SAMPLE = 30  # a tail is a fifth of the draws, and a fit needs at least five of them

_FEW = 5  # a tail needs as many different weights
_PRIOR_THETA, _PRIOR_DRAWS, _PRIOR_K = 3, 10, 0.5
_AT_ONCE = 2**22  # numbers in the largest tensor of a fit: data, points and tail


def pareto_khat(log_weights: Tensor, rounding: Tensor | float = 1e-6) -> Tensor:
    """Compute Pareto k-hat of the importance weights of each column (Vehtari et al. 2024).

    Args:
        log_weights: `(K, B)`, not normalised, on any device.
        rounding: log weights this close are equal up to rounding, `(B,)` or one number.

    Returns:
        `(B,)` in 64-bit on the same device. It is NaN where there is no tail to fit, because the largest
        weights are equal or take few values, as those of a discrete latent do, or because K is below 30. It
        is infinite where fewer than five draws have more than half of the weight, so that no tail can be
        fitted.
    """
    rows = in_64_bits(log_weights.T)
    num_samples = rows.shape[1]
    if num_samples < SMALLEST_SAMPLE:
        return rows.new_full((len(rows),), torch.nan)
    # The tail, as the paper cuts it off, and the threshold below it.
    size = math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))
    largest = rows.topk(size + 1, dim=1).values
    tail = largest[:, :size]
    steps = torch.as_tensor(rounding, dtype=rows.dtype, device=rows.device).reshape(-1, 1)
    values = 1 + (((tail - tail[:, :1]) / steps).clamp(min=-1e15).round().diff(dim=1) != 0).sum(1)
    outweigh = tail[:, : _FEW - 1].logsumexp(1) > rows.logsumexp(1) - math.log(2)
    at_once = max(1, _AT_ONCE // (size * _num_points(size)))
    fitted = torch.cat([_fitted(part) for part in largest.split(at_once)])
    khat = fitted.where(fitted.isfinite() & (values >= _FEW), torch.nan)
    return khat.masked_fill(outweigh & (values > 1) & khat.isnan(), torch.inf)


def _num_points(tail: int) -> int:
    return 30 + math.isqrt(tail)


def _fitted(largest: Tensor) -> Tensor:
    """Fit the tails of the weights whose largest logarithms are given.

    Args:
        largest: the logarithms of the tail, descending, and of the threshold, `(B, T + 1)`.

    Returns:
        k-hat, `(B,)`; not finite where fewer than five weights are above the threshold.
    """
    largest = largest - largest[:, :1]
    # A weight that is 0 beside the largest one belongs to no tail.
    threshold = largest[:, -1:].clamp(min=math.log(torch.finfo(largest.dtype).tiny))
    inside = largest[:, :-1] > threshold  # fewer than T where weights are equal
    count = inside.sum(1, keepdim=True)
    x = (largest[:, :-1].exp() - threshold.exp()).where(inside, 0.0)  # 0 adds nothing to a sum
    theta = _points(x, count)
    k = _mean_log(theta, x, count)
    log_likelihood = count * ((-theta / k).log() - k - 1)
    log_likelihood = log_likelihood.where(theta.isfinite(), -torch.inf)
    weights = log_likelihood.softmax(1)
    weights = weights.where(weights >= 10 * torch.finfo(x.dtype).eps, 0.0)
    theta = theta.where(weights > 0, 0.0)
    best = (theta * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
    k = _mean_log(best, x, count)
    khat = (count * k + _PRIOR_DRAWS * _PRIOR_K) / (count + _PRIOR_DRAWS)
    return khat.where(count >= _FEW, torch.inf).squeeze(1)


def _points(x: Tensor, count: Tensor) -> Tensor:
    """Return the points theta, `(B, m)`, of tails `(B, T)`, descending; -inf behind a tail's last point."""
    number = 30 + count.to(x.dtype).sqrt().floor()
    quartile = count - (count / 4 + 0.5).long()  # its place from the largest value on
    j = torch.arange(1, _num_points(x.shape[1]) + 1, dtype=x.dtype, device=x.device)
    below = (1 - (number / (j - 0.5)).sqrt()) / (
        _PRIOR_THETA * x.gather(1, quartile.clamp(max=x.shape[1] - 1))
    )
    return (1 / x[:, :1] + below).where(j <= number, -torch.inf)


def _mean_log(theta: Tensor, x: Tensor, count: Tensor) -> Tensor:
    """Return k(theta), the mean of log(1 - theta x) over a tail: `(B, m)` for points `(B, m)`."""
    return torch.log1p(-theta.unsqueeze(2) * x.unsqueeze(1)).sum(2) / count
