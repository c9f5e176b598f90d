"""The sample sites of a trace, and the role of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pyro import poutine
from pyro.distributions import Unit
from pyro.infer.inspect import site_is_deterministic
from pyro.poutine.trace_struct import Trace

from pyrovae.programs.distributions import base_of, is_discrete

Role = Literal["latent", "observed", "factor", "deterministic"]


def role_of(site: Mapping[str, Any]) -> Role:
    """Return the role of a sample site.

    A site of `pyro.deterministic` is "deterministic", and one of `pyro.factor` is a "factor". Any other
    site is "observed" if it has `obs`, else "latent".
    """
    if site_is_deterministic(site):
        return "deterministic"
    if not site["is_observed"]:
        return "latent"
    return "factor" if isinstance(base_of(site["fn"]), Unit) else "observed"


def is_sample(site: Mapping[str, Any]) -> bool:
    """Whether a node of a trace is a sample statement, and neither a parameter nor the site of a plate."""
    return site["type"] == "sample" and not poutine.util.site_is_subsample(site)


def latent_sites(trace: Trace) -> list[str]:
    """Return the names of the latent sites of a pruned trace, in the order in which they are sampled."""
    return list(trace.stochastic_nodes)


def observed_sites(trace: Trace) -> list[str]:
    """Return the names of the sites whose value is given, with the factors, in the order of the program."""
    return [name for name in trace.observation_nodes if not site_is_deterministic(trace.nodes[name])]


def continuous_latents(trace: Trace) -> list[str]:
    """Return the names of the latents with floating-point values that are not discrete."""
    return [
        name
        for name in latent_sites(trace)
        if trace.nodes[name]["value"].is_floating_point() and not is_discrete(trace.nodes[name]["fn"])
    ]


def members_of(frame: Any, site: Mapping[str, Any]) -> int:
    """Return the number of members of a plate in a run, from its frame at a site.

    A plate without a size has as many members as the site's distribution has there.
    """
    if frame.size >= 0 or frame.dim is None:
        return int(frame.size)
    shape = site["fn"].batch_shape
    return int(shape[frame.dim]) if len(shape) >= -frame.dim else 1


def full_size_of(frame: Any, members: int) -> int:
    """Return the number of all members of a plate that has so many members in a run; see `members_of`.

    It is larger if the program subsamples.
    """
    return members if frame.size < 0 else int(frame.full_size or members)
