"""Results as ArviZ's data structure, which differs between its versions 0.x and 1.x."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any


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
