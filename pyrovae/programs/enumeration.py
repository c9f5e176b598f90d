"""The check that a pair gives the same densities when its enumerated sites have dimensions of their own.

One run draws the enumerated sites. Another run holds all of their values side by side, in leading
dimensions. At the drawn values both must give the same densities. A network that takes no leading
dimensions fails, or gives others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.programs.copies import Copies, run_copies, run_one
from pyrovae.programs.densities import unscaled_log_prob
from pyrovae.programs.modes import nothing_moves
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.rows import Arguments
from pyrovae.programs.sites import is_sample
from pyrovae.programs.ways import close


def takes_enumerated_values(
    pair: ModelAndGuide, arguments: Arguments, guide: Copies, model: Copies
) -> bool:
    """Whether enumerated sites in leading dimensions give the densities of runs that draw them.

    Args:
        pair: a pair.
        arguments: the arguments of a call.
        guide: the kind of the guide's copies, without particles.
        model: the kind of the model's copies, without particles.
    """
    drawing, in_model = (
        copies._replace(particles=1, enumerated=(), several=False) for copies in (guide, model)
    )
    with nothing_moves(pair.model, pair.guide):
        by_guide = run_one(pair.guide, arguments, drawing, (0, 0))
        by_model = run_one(pair.model, arguments, in_model, (0, 0), by_guide)
        try:
            drawn_anew = run_copies("leading", pair.guide, arguments, guide)
            given = _as_wide(_without(by_guide, guide.enumerated), drawn_anew)
            side_by_side = run_copies("leading", pair.guide, arguments, guide, given)
            alone = _without(by_model, (*model.enumerated, *by_guide.nodes))
            alone.nodes.update(side_by_side.nodes)
            in_leading = run_copies("leading", pair.model, arguments, model, alone)
        except Exception:  # networks that cannot take the dimensions raise errors of any type
            return False
    values = {
        name: site["value"] for trace in (by_model, by_guide) for name, site in _samples(trace).items()
    }
    enumerated = _by_number(side_by_side) | _by_number(in_leading)
    for found, expected in ((side_by_side, by_guide), (in_leading, by_model)):
        for name, site in _samples(found).items():
            other = expected.nodes.get(name)
            if other is None or not close(_at(site, enumerated, values), unscaled_log_prob(other)):
                return False
    return True


def _samples(trace: Trace) -> dict[str, Any]:
    return {name: site for name, site in trace.nodes.items() if is_sample(site)}


def _without(trace: Trace, names: Any) -> Trace:
    """Return the latents of a trace, but for some."""
    kept = Trace()
    for name, site in _samples(trace).items():
        if not site["is_observed"] and name not in names:
            kept.nodes[name] = site
    return kept


def _as_wide(given: Trace, trace: Trace) -> Trace:
    """Expand the given values to the shapes that they have beside enumerated values in another trace."""
    for name, site in given.nodes.items():
        shape = trace.nodes[name]["value"].shape
        given.nodes[name] = {**site, "value": site["value"].expand(shape)}
    return given


def _by_number(trace: Trace) -> dict[int, Any]:
    """Return the enumerated sites of a trace by the number that Pyro gives to the dimension of each."""
    sites = [site for site in _samples(trace).values() if site["infer"].get("_enumerate_dim") is not None]
    return {site["infer"]["_dim_to_id"][site["infer"]["_enumerate_dim"]]: site for site in sites}


def _at(site: Mapping[str, Any], enumerated: Mapping[int, Any], values: Mapping[str, Tensor]) -> Tensor:
    """Return a site's log density at the drawn values of the enumerated sites."""
    log_prob = unscaled_log_prob(site)
    for dim, number in site["infer"].get("_dim_to_id", {}).items():
        if log_prob.dim() < -dim or log_prob.shape[dim] == 1 or number not in enumerated:
            continue
        fn, drawn = enumerated[number]["fn"], values[enumerated[number]["name"]]
        chosen = torch.zeros_like(log_prob.narrow(dim, 0, 1))
        for index, value in enumerate(fn.enumerate_support(expand=False)):
            same = drawn == value.reshape(value.shape[value.dim() - fn.event_dim :])
            same = same.flatten(-fn.event_dim).all(-1) if fn.event_dim else same
            chosen = torch.where(same, log_prob.narrow(dim, index, 1), chosen)
        log_prob = chosen
    return log_prob
