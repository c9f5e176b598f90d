"""The check that the densities of a datum do not depend on the other data of the call.

A few data are scored together, and then in two parts, with the same latents. A Gaussian process or a graph
over the data gives other densities then. Such a model has no bound that is a sum over data.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pyro
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.programs.copies import Copies, given_values, run_one
from pyrovae.programs.densities import unscaled_log_prob
from pyrovae.programs.modes import nothing_moves
from pyrovae.programs.noise import Noise, RecordedNoise, ReplayedNoise
from pyrovae.programs.pair import ModelAndGuide, Program
from pyrovae.programs.rows import Arguments
from pyrovae.programs.sites import is_sample
from pyrovae.programs.structure import Structure
from pyrovae.programs.values import changed
from pyrovae.programs.ways import close

_NUMBERS = (7, 11, 13, 17)  # numbers of data, one of which is the size of nothing else


def check_no_neighbours(pair: ModelAndGuide, arguments: Arguments) -> None:
    """Refuse a pair whose densities of a datum depend on the other data.

    A pair that runs on its own number of data only cannot be checked.

    Args:
        pair: a pair with a plate of the data.
        arguments: the arguments of a call.

    Raises:
        InputError: a density of a datum changes with the other data. The message names the site.
    """
    of = Structure(pair, arguments.args, arguments.kwargs)
    data = of.data_plate
    if data is None or data.dim is None or of.guide is None:
        return
    sizes = {size for trace in of.traces if trace for site in trace.nodes.values() for size in _sizes(site)}
    number = next(n for n in _NUMBERS if n not in sizes - {of.num_data})
    few = arguments.first(number)
    copies = Copies(1, max(-p.dim for p in of.plates.values() if p.dim is not None), data.dim)
    local = [name for name, site in of.sites.items() if site.scope != "global"]
    with nothing_moves(pair.model, pair.guide), pyro.validation_enabled(False):
        try:
            with RecordedNoise() as recorded:
                by_guide = run_one(pair.guide, few, copies, (0, 0))
            by_model = run_one(pair.model, few, copies, (0, 0), by_guide)
            halves = [slice(0, number // 2), slice(number // 2, number)]
            latents = _latents(by_guide) | _latents(by_model)
            parts = [_part(pair, few, copies, rows, latents, recorded.noise) for rows in halves]
        except Exception:  # programs for one number of data raise errors of any type
            return
    for rows, (guide_part, model_part) in zip(halves, parts, strict=True):
        for whole, part in ((by_guide, guide_part), (by_model, model_part)):
            for name in local:
                if part is not None and name in whole.nodes and name in part.nodes:
                    _compare(name, whole, part, rows, data.dim, few)


def _latents(trace: Trace) -> dict[str, Any]:
    """Return the sites of a trace whose values were drawn."""
    return {n: site for n, site in trace.nodes.items() if is_sample(site) and not site["is_observed"]}


def _sizes(site: dict[str, Any]) -> tuple[int, ...]:
    return tuple(site["value"].shape) if is_sample(site) else ()


def _part(
    pair: ModelAndGuide,
    few: Arguments,
    copies: Copies,
    rows: slice,
    latents: Mapping[str, Any],
    noise: Noise,
) -> tuple[Trace | None, Trace]:
    """Run guide and model on some of the data, with the draws that these data had before."""
    event_dims = {name: site["fn"].event_dim for name, site in latents.items()}
    values = {
        name: changed(
            partial(_cut, dim=copies.data_dim - event_dims[name], rows=rows, few=few), site["value"]
        )
        for name, site in latents.items()
    }
    part = few.rows(rows)
    by_model = run_one(pair.model, part, copies, (0, 0), given_values(values, event_dims))
    return _guide_part(pair.guide, part, copies, [_of_rows(draw, rows, few) for draw in noise]), by_model


def _guide_part(guide: Program, part: Arguments, copies: Copies, noise: Noise) -> Trace | None:
    try:
        with ReplayedNoise([noise]):
            return run_one(guide, part, copies, (0, 0))
    except Exception:  # its noise is not one draw for each datum: rejection sampling, for example
        return None


def _cut(value: Tensor, dim: int, rows: slice, few: Arguments) -> Tensor:
    has_rows = value.dim() >= -dim and value.shape[dim] == few.num_data
    return value.movedim(dim, 0)[rows].movedim(0, dim) if has_rows else value


def _of_rows(draw: Tensor, rows: slice, few: Arguments) -> Tensor:
    """Return the part of random numbers that belongs to some of the data."""
    dims = [dim for dim, size in enumerate(draw.shape) if size == few.num_data]
    return _cut(draw, dims[0] - draw.dim(), rows, few) if dims else draw


def _compare(name: str, whole: Trace, part: Trace, rows: slice, data_dim: int, few: Arguments) -> None:
    """Refuse a site whose density, or whose draw with the same noise, changes with the other data."""
    one, other = part.nodes[name], whole.nodes[name]
    pairs = [(unscaled_log_prob(one), _cut(unscaled_log_prob(other), data_dim, rows, few))]
    if not one["is_observed"]:
        dim = data_dim - other["fn"].event_dim
        pairs.append((one["value"].double(), _cut(other["value"].double(), dim, rows, few)))
    for found, expected in pairs:
        if not close(found, expected):
            change = (found - expected).abs().max().item()
            raise InputError(
                f"the log density of site '{name}' of a datum depends on the other data of the call (a "
                f"difference of {change:.3g} when they are left out), so the model has no evidence or "
                "bound for each datum: compute the site's distribution from each datum's own values; or "
                "train on all data at once (batch_size=len(x)) and estimate their joint evidence, "
                "marginal_likelihood(..., joint=True)."
            )
