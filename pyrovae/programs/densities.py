"""Log densities of the sites of a trace, without scales, and the weights of enumerated values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor


def sample_sites(trace: Trace) -> list[Any]:
    """The nodes of all sample statements of a trace, those of plates included."""
    return [site for site in trace.nodes.values() if site["type"] == "sample"]


def enumerated_sites(trace: Trace) -> list[str]:
    """The names of the sites that ran for all of their values side by side."""
    return [name for name, site in trace.nodes.items() if site.get("infer", {}).get("_enumerate_dim")]


def enumeration_weights(guide_trace: Trace) -> Tensor | float:
    """The guide's probability of each enumerated value: `(C, 1..., B)`, or 1 if nothing is enumerated."""
    sites = [guide_trace.nodes[name] for name in enumerated_sites(guide_trace)]
    if not sites:
        return 1.0
    first, *others = (unscaled_log_prob(site) for site in sites)
    return sum(others, first).exp()


def zero_like_densities(trace: Trace) -> Tensor:
    """A 0 on the device of a trace's log densities, to begin their sum with."""
    densities = (site["log_prob"] for site in sample_sites(trace))
    return next(densities, torch.zeros(())).new_zeros(())


def unscaled_log_prob(site: Mapping[str, Any]) -> Tensor:
    """A site's log density with its mask and without its scale. Call `trace.compute_log_prob` before.

    A reported log density contains no scale, neither a beta nor a plate's N/B.
    """
    return scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])


def trace_log_probs(trace: Trace) -> dict[str, Tensor]:
    """The unscaled log density of every sample site, by name. The sites of plates are left out."""
    trace.compute_log_prob()
    return {
        name: unscaled_log_prob(site)
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not poutine.util.site_is_subsample(site)
    }


def log_prob_per_datum(log_prob: Tensor, data_dim: int | None) -> Tensor:
    """A site's log density summed over all plates but the data's.

    Args:
        log_prob: the log density, one dimension for each plate.
        data_dim: the dimension of the data's plate, counted from the right; None for a global site.

    Returns:
        `(N,)`, or `()` for a global site.
    """
    if data_dim is None:
        return log_prob.sum()
    return log_prob.movedim(data_dim, 0).flatten(1).sum(1) if log_prob.dim() > 1 else log_prob
