"""Log densities of the sites of a trace, without scales, and the weights of enumerated values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.programs.sites import is_sample


def sample_sites(trace: Trace) -> list[Any]:
    """Return the nodes of all sample statements of a trace, including those of plates."""
    return [site for site in trace.nodes.values() if site["type"] == "sample"]


def enumerated_sites(trace: Trace) -> list[str]:
    """Return the names of the enumerated sites, which ran for all of their values side by side."""
    return [name for name, site in trace.nodes.items() if site.get("infer", {}).get("_enumerate_dim")]


def enumeration_weights(guide_trace: Trace) -> Tensor | float:
    """Return the guide's probability of each enumerated value, `(C, 1..., B)`; 1 if there is none."""
    sites = [guide_trace.nodes[name] for name in enumerated_sites(guide_trace)]
    if not sites:
        return 1.0
    first, *others = (unscaled_log_prob(site) for site in sites)
    return sum(others, first).exp()


def zero_like_densities(trace: Trace) -> Tensor:
    """Return a 0 of the type and on the device of a trace's log densities, as the start of their sum."""
    densities = (site["log_prob"] for site in sample_sites(trace))
    return next(densities, torch.zeros(())).new_zeros(())


def unscaled_log_prob(site: Mapping[str, Any]) -> Tensor:
    """Return a site's log density with its mask, but without its scale (a beta, a plate's N/B).

    `trace.compute_log_prob` must have been called before.
    """
    return scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])


def trace_log_probs(trace: Trace) -> dict[str, Tensor]:
    """Return the unscaled log density of every sample site, by name. The sites of plates are left out."""
    trace.compute_log_prob()
    return {name: unscaled_log_prob(site) for name, site in trace.nodes.items() if is_sample(site)}


def log_prob_per_datum(log_prob: Tensor, data_dim: int | None) -> Tensor:
    """Sum a site's log density over all plates but the data's.

    Args:
        log_prob: the log density, one dimension for each plate.
        data_dim: the dimension of the data's plate, counted from the right; None for a global site.

    Returns:
        `(N,)`, or `()` for a global site.
    """
    if data_dim is None:
        return log_prob.sum()
    return log_prob.movedim(data_dim, 0).flatten(1).sum(1) if log_prob.dim() > 1 else log_prob
