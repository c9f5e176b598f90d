"""Log densities of a trace: by site, without scales, and how enumerated values are weighted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor


def sample_sites(trace: Trace) -> list[Any]:
    return [site for site in trace.nodes.values() if site["type"] == "sample"]


def enumerated_sites(trace: Trace) -> list[str]:
    """The sites that ran for all of their values side by side."""
    return [name for name, site in trace.nodes.items() if site.get("infer", {}).get("_enumerate_dim")]


def enumeration_weights(guide_trace: Trace) -> Tensor | float:
    """The guide's probability of each enumerated value: `(C, 1..., B)`, or 1 where nothing is."""
    sites = [guide_trace.nodes[name] for name in enumerated_sites(guide_trace)]
    if not sites:
        return 1.0
    first, *others = (unscaled_log_prob(site) for site in sites)
    return sum(others, first).exp()


def zero_like_densities(trace: Trace) -> Tensor:
    """0 to begin a sum of a trace's log densities with, on their device."""
    densities = (site["log_prob"] for site in sample_sites(trace))
    return next(densities, torch.zeros(())).new_zeros(())


def unscaled_log_prob(site: Mapping[str, Any]) -> Tensor:
    """A site's log density with its mask and without its scale (call `compute_log_prob` before).

    A scale, be it a beta or a plate's N/B, has no place in a log density that is reported.
    """
    return scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])


def trace_log_probs(trace: Trace) -> dict[str, Tensor]:
    """Every sample site's unscaled log density, by name."""
    trace.compute_log_prob()
    return {
        name: unscaled_log_prob(site)
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not poutine.util.site_is_subsample(site)
    }
