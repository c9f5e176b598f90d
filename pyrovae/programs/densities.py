"""Log densities of the sites of a trace, without scales, and the weights of enumerated values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from pyro.distributions import Delta
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.programs.distributions import base_of
from pyrovae.programs.sites import is_sample, latent_sites, observed_sites, role_of


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
    first, *others = (value_log_prob(site) for site in sites)
    return sum(others, first).exp()


def value_log_prob(site: Mapping[str, Any]) -> Tensor:
    """Return the log probability of each value of an enumerated site, without its scale and its mask.

    A mask takes the site out of the bound, but the values are still summed over. Their probabilities must
    add up to 1, so that what does not depend on the value counts once.
    """
    return cast(Tensor, site["unscaled_log_prob"])


def zero_like_densities(trace: Trace) -> Tensor:
    """Return a 0 of the type and on the device of a trace's log densities, as the start of their sum."""
    densities = (site["log_prob"] for site in sample_sites(trace))
    return next(densities, torch.zeros(())).new_zeros(())


def unscaled_log_prob(site: Mapping[str, Any]) -> Tensor:
    """Return a site's log density with its mask, but without its scale (a beta, a plate's N/B).

    `trace.compute_log_prob` must have been called before.
    """
    return scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])


def training_terms(guide_trace: Trace) -> list[str]:
    """Return the names of the guide's observed sites and factors that state the density of no draw.

    Such a site adds its log density to the loss, as a classification loss does. A factor may state the
    density of a latent that a `Delta` sets, and is then no training term.
    """
    factors = _factors(guide_trace)
    stated = factors if factors and _points(guide_trace) else []
    return [name for name in observed_sites(guide_trace) if name not in stated]


def with_roles(guide_trace: Trace) -> Trace:
    """Return the guide's trace with `score_parts` that fit the role of each site.

    The value of a training term is given, not drawn, so the term has a plain gradient. Pyro takes it for
    the density of a draw.

    Raises:
        InputError: a factor with `has_rsample=False` stands beside a `Delta` whose value is differentiable.
    """
    _check_factors(guide_trace)
    if not (terms := training_terms(guide_trace)):
        return guide_trace
    copy = guide_trace.copy()
    for name in terms:
        log_prob = copy.nodes[name]["score_parts"].log_prob
        copy.nodes[name] = {**copy.nodes[name], "score_parts": ScoreParts(log_prob, 0, log_prob)}
    return copy


def _fn(trace: Trace, name: str) -> Any:
    return trace.nodes[name]["fn"]


def _factors(trace: Trace) -> list[str]:
    return [name for name in observed_sites(trace) if role_of(trace.nodes[name]) == "factor"]


def _points(trace: Trace) -> list[str]:
    """Return the names of the latents that a `Delta` without a log density sets."""
    deltas = {name: base_of(_fn(trace, name)) for name in latent_sites(trace)}
    return [
        name for name, fn in deltas.items() if isinstance(fn, Delta) and bool((fn.log_density == 0).all())
    ]


def _check_factors(guide_trace: Trace) -> None:
    if not (factors := _factors(guide_trace)):
        return
    moving = [name for name in _points(guide_trace) if guide_trace.nodes[name]["value"].requires_grad]
    for name in factors:
        if moving and not _fn(guide_trace, name).has_rsample:
            raise InputError(
                f"the guide's factor '{name}' has has_rsample=False, so it is the density of draws without "
                f"a gradient, but the value of the Delta at site '{moving[0]}' has a gradient: write "
                f"pyro.factor('{name}', ..., has_rsample=True), or detach the value if it is drawn without "
                "reparameterisation."
            )


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
