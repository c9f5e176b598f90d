"""All calls of ArviZ, in one place since its interfaces 0.x and 1.x differ (Python 3.11 gets 0.x)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SMALLEST_SAMPLE = 30  # a tail is a fifth of the draws, and ArviZ's fit wants more than five of them
_NO_SPREAD = 1e-6  # log weights this close are equal up to rounding


def pareto_khat(log_weights: Tensor) -> Tensor:
    """Compute Pareto k-hat of the importance weights of each column (Vehtari et al. 2024).

    Args:
        log_weights: `(K, B)`, not normalised.

    Returns:
        `(B,)`. It is NaN where there is no tail to fit, because the largest weights are equal or K is below
        30. It is infinite where a few draws outweigh all others, so that no tail can be fitted.
    """
    rows = log_weights.T.double().cpu().contiguous()
    if log_weights.shape[0] < _SMALLEST_SAMPLE:
        return rows.new_full((len(rows),), torch.nan)
    largest = rows.topk(5, dim=1).values
    no_tail = largest[:, 0] - largest[:, -1] < _NO_SPREAD
    khat = torch.as_tensor(_psislw_khat(rows.numpy()), dtype=torch.float64).nan_to_num(nan=torch.inf)
    return torch.where(no_tail, torch.nan, khat)


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
