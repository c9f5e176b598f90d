"""Draws that may repeat: those of discrete latents, and points.

Draws of a continuous latent differ. If its importance weights do not vary, each draw says the same of log
p(x), and the guide is exact. Draws of a discrete latent, or the point of a `Delta`, may be one value again
and again. Then equal weights say nothing of the values that were not drawn.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from pyro.distributions import Delta
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.compute.precision import in_64_bits
from pyrovae.programs.densities import enumerated_sites
from pyrovae.programs.distributions import base_of
from pyrovae.programs.sites import latent_sites

_SAME = 1e-9  # fingerprints this close, relative to their size, are of equal values


def may_repeat(site: Mapping[str, Any]) -> bool:
    """Whether draws at a latent site may be equal: its values are discrete, or it is a point."""
    base = base_of(site["fn"])
    if isinstance(base, Delta) or not site["value"].is_floating_point():
        return True
    try:
        return bool(base.support.is_discrete)
    except (NotImplementedError, AttributeError):
        return False


def fingerprints(
    trace: Trace, drawn: Collection[str], depth: int, data_dim: int, data_plate: str | None
) -> Tensor | None:
    """Return a number for each draw that is the same for draws with equal values at discrete sites.

    These are the guide's sites whose draws may repeat, under the plates. Enumerated sites are not drawn.

    Args:
        trace: a trace of the guide under K particles.
        drawn: the sites whose draws count. A global latent at a point is a parameter, and not drawn.
        depth: the number of dimensions that the plates take, without the particles'.
        data_dim: the dimension of the data's plate, counted from the right.
        data_plate: its name; None if a draw is one of all data together.

    Returns:
        `(K, B)` in 64-bit, or `(K, 1)` for all data together; None if there is no such site.
    """
    total: Tensor | None = None
    summed_out = enumerated_sites(trace)
    for number, name in enumerate(latent_sites(trace), start=1):
        site = trace.nodes[name]
        # A global latent is the same for all data.
        counts = data_plate is None or any(frame.name == data_plate for frame in site["cond_indep_stack"])
        if name in summed_out or name not in drawn or not counts or not may_repeat(site):
            continue
        event_dim = site["fn"].event_dim
        value = in_64_bits(site["value"])
        value = value.reshape((*[1] * max(0, depth + 1 + event_dim - value.dim()), *value.shape))
        plates = value.dim() - event_dim
        axes = (plates - depth - 1, plates + data_dim) if depth else (plates - 1,)
        parts = value.movedim(axes, tuple(range(len(axes))))
        # (K, B, all else), or (K, 1, all else)
        joint = data_plate is None
        parts = parts.flatten(1).unsqueeze(1) if joint else parts.unsqueeze(-1).flatten(2)
        # No two sets of values have the same sum, but by a coincidence.
        weights = torch.arange(1, parts.shape[-1] + 1, dtype=parts.dtype, device=parts.device).sin()
        of_site = number**0.5 * (parts * weights).sum(-1)
        total = of_site if total is None else total + of_site
    return total


def all_equal(fingerprints: Tensor) -> Tensor:
    """Return whether all draws of a datum have one fingerprint: `(K, B)` to `(B,)`."""
    low, high = fingerprints.aminmax(dim=0)
    return high - low <= _SAME * (1 + high.abs())
