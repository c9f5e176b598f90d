"""All calls of ArviZ, in one place since its interfaces 0.x and 1.x differ (Python 3.11 gets 0.x)."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALLEST_SAMPLE = 30  # a tail is a fifth of the draws, and ArviZ's fit wants more than five of them
_FEW = 5  # a tail needs as many different weights


def pareto_khat(log_weights: Tensor, rounding: Tensor | float = 1e-6) -> Tensor:
    """Compute Pareto k-hat of the importance weights of each column (Vehtari et al. 2024).

    Args:
        log_weights: `(K, B)`, not normalised.
        rounding: log weights this close are equal up to rounding, `(B,)` or one number.

    Returns:
        `(B,)`. It is NaN where there is no tail to fit, because the largest weights are equal or take few
        values, as those of a discrete latent do, or because K is below 30. It is infinite where fewer than
        five draws have more than half of the weight, so that no tail can be fitted.
    """
    rows = log_weights.T.cpu().double().contiguous()
    num_samples = rows.shape[1]
    if num_samples < SMALLEST_SAMPLE:
        return rows.new_full((len(rows),), torch.nan)
    # The tail, as the paper and ArviZ cut it off.
    tail = rows.topk(math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples))), dim=1).values
    steps = ((tail - tail[:, :1]) / torch.as_tensor(rounding).reshape(-1, 1)).clamp(min=-1e15).round()
    values = 1 + (steps.diff(dim=1) != 0).sum(1)
    outweigh = tail[:, : _FEW - 1].logsumexp(1) > rows.logsumexp(1) - math.log(2)
    fitted = torch.as_tensor(_psislw_khat(rows.numpy()), dtype=torch.float64)
    khat = fitted.where(fitted.isfinite() & (values >= _FEW), torch.nan)
    varies = values > 1
    return khat.masked_fill(outweigh & varies & khat.isnan(), torch.inf)


def _psislw_khat(log_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # ArviZ announces its own changes on import
        try:
            from arviz_stats.base import array_stats
        except ImportError:
            from arviz.stats import psislw

            return np.asarray(psislw(log_weights)[1])
        # ArviZ 1.x takes negative log weights, as it is made for leave-one-out log likelihoods. It gives up
        # on all rows if a single one has no tail, so it gets one row at a time.
        khat = np.full(len(log_weights), np.nan)
        for row, weights in enumerate(log_weights):
            with contextlib.suppress(ValueError):
                khat[row] = array_stats.psislw(-weights)[1]
        return khat


def to_group(name: str, values: Mapping[str, Any], coordinates: Mapping[str, Any]) -> Any:
    """Make ArviZ's data structure with one group: `InferenceData` in 0.x, `xarray.DataTree` in 1.x.

    Args:
        name: the name of the group.
        values: the dimensions and the array of each variable by name, as xarray takes them.
        coordinates: the labels along each dimension by name.
    """
    import xarray  # like ArviZ, slow to import

    dataset = xarray.Dataset(dict(values), coords=dict(coordinates))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz

    if arviz.__version__.startswith("0."):
        return arviz.InferenceData(warn_on_custom_groups=False, **{name: dataset})
    return xarray.DataTree.from_dict({f"/{name}": dataset})
