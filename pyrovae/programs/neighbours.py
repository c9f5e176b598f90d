"""The check that the densities of a datum do not depend on the other data of the call.

A few data are scored with others, and then with copies of themselves in the place of the others, with the
same latents. A Gaussian process or a graph over the data gives other densities then. Such a model has no
bound that is a sum over data.

The guide runs twice: with the random numbers of before, and with the draws of before. A dependence shows in
both. A sampler that rejects tries until all data have a draw, so that its draws alone depend on others.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import pyro
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.compute.precision import in_64_bits
from pyrovae.errors import InputError
from pyrovae.programs.copies import Copies, given_values, run_one
from pyrovae.programs.densities import unscaled_log_prob
from pyrovae.programs.modes import nothing_moves
from pyrovae.programs.noise import Noise, RecordedNoise, ReplayedNoise
from pyrovae.programs.pair import ModelAndGuide, Program, with_programs
from pyrovae.programs.rows import Arguments
from pyrovae.programs.sites import is_sample
from pyrovae.programs.structure import Structure
from pyrovae.programs.values import changed
from pyrovae.programs.ways import needs_all


def check_no_neighbours(pair: ModelAndGuide, arguments: Arguments, in_training: bool = False) -> None:
    """Refuse a pair whose densities of a datum depend on the other data.

    A pair whose runs cannot be repeated, since it has a random generator of its own, is not checked.

    Args:
        pair: a pair with a plate of the data.
        arguments: the arguments of a call.
        in_training: whether factors may depend on other data. In training they may be terms of a whole
            minibatch, such as a constraint on the classes' frequencies.

    Raises:
        InputError: a density of a datum changes with the other data. The message names the site.
    """
    found = _dependence(pair, arguments, in_training)
    if found is None:
        return
    name, change = found
    cut = "".join(
        f" given['{name}'] has as many rows as there are data, so it is cut with them: if it belongs to no "
        f"datum, give Whole({name}) of pyrovae.programs instead."
        for name in _cut_by_chance(pair, arguments, in_training)
    )
    raise InputError(
        f"the log density of site '{name}' of a datum depends on the other data of the call (a difference "
        f"of {change:.3g} with others), so the model has no evidence or bound for each datum: compute the "
        "site's distribution from each datum's own values; or train on all data at once "
        "(batch_size=len(x)) and estimate their joint evidence, marginal_likelihood(..., joint=True)."
        f"{cut}"
    )


def _cut_by_chance(pair: ModelAndGuide, arguments: Arguments, in_training: bool) -> list[str]:
    """Return the names of what is given by rows, and makes no datum depend on others if it is whole."""
    found = []
    rows = arguments.of_data(lambda values: values[:0]).kwargs
    for name, value in arguments.kwargs.items():
        if rows[name] is value:
            continue
        bound = with_programs(pair, *(partial(each, **{name: value}) for each in (pair.model, pair.guide)))
        call = arguments._replace(kwargs={n: v for n, v in arguments.kwargs.items() if n != name})
        runs_on_others = not needs_all(bound, call, len(value) + 1)
        if runs_on_others and _dependence(bound, call, in_training) is None:
            found.append(name)
    return found


def _dependence(pair: ModelAndGuide, arguments: Arguments, in_training: bool) -> tuple[str, float] | None:
    """Return the first site whose density of a datum depends on other data, with the largest change."""
    of = Structure(pair, arguments.args, arguments.kwargs)
    data = of.data_plate
    if data is None or data.dim is None or of.guide is None:
        return None
    sizes = {size for trace in of.traces if trace for site in trace.nodes.values() for size in _sizes(site)}
    number = next(n for n in itertools.count(7, 2) if n not in sizes)  # the size of nothing else
    few = arguments if needs_all(pair, arguments, number) else arguments.first(number)
    copies = Copies(1, max(-p.dim for p in of.plates.values() if p.dim is not None), data.dim)
    free = ("factor",) if in_training else ()
    of_data = {name: site for name, site in of.sites.items() if site.scope != "global"}
    local = [name for name, site in of_data.items() if site.role not in free]
    same, *others = _arrangements(few.num_data or 1)
    with nothing_moves(pair.model, pair.guide), pyro.validation_enabled(False):
        try:
            with RecordedNoise() as recorded:
                by_guide = run_one(pair.guide, few, copies, (0, 0))
            by_model = run_one(pair.model, few, copies, (0, 0), by_guide)
            latents = _latents(by_guide) | _latents(by_model)
            runs = [
                _run(pair, few, copies, rows, latents, of_data, recorded.noise) for rows in (same, *others)
            ]
        except Exception:  # programs raise errors of any type
            return None
    again, *changed_runs = (_changes(by_guide, by_model, run, local, data.dim) for run in runs)
    for rows, changes in zip(others, changed_runs, strict=True):
        kept = rows == same
        for name, change in changes.items():
            if name not in again and bool((change[kept] > 0).any()):
                return name, change[kept].max().item()
    return None


def _arrangements(number: int) -> list[Tensor]:
    """Return rows: as they are; the first half and copies of it; copies of the second half and itself."""
    rows, half = torch.arange(number), number // 2
    first, second = rows.clone(), rows.clone()
    if half:
        first[half:] = (rows[half:] + 1) % half
        second[:half] = half + (rows[:half] + 1) % (number - half)
    return [rows, first, second]


def _latents(trace: Trace) -> dict[str, Any]:
    """Return the sites of a trace whose values were drawn."""
    return {n: site for n, site in trace.nodes.items() if is_sample(site) and not site["is_observed"]}


def _sizes(site: dict[str, Any]) -> tuple[int, ...]:
    return tuple(site["value"].shape) if is_sample(site) else ()


def _run(
    pair: ModelAndGuide,
    few: Arguments,
    copies: Copies,
    rows: Tensor,
    latents: Mapping[str, Any],
    of_data: Collection[str],
    noise: Noise,
) -> tuple[list[Trace], Trace, Tensor]:
    """Run guide and model on data in another arrangement, with the draws that each datum had before."""
    event_dims = {name: site["fn"].event_dim for name, site in latents.items()}
    values = {
        name: changed(partial(_arranged, dim=copies.data_dim - event_dims[name], rows=rows), site["value"])
        if name in of_data
        else site["value"]
        for name, site in latents.items()
    }
    arranged = few.rows(rows)
    as_before = given_values(values, event_dims)
    by_model = run_one(pair.model, arranged, copies, (0, 0), as_before)
    draws = [_of_rows(draw, rows) for draw in noise]
    return _guide_runs(pair.guide, arranged, copies, draws, as_before), by_model, rows


def _guide_runs(
    guide: Program, arranged: Arguments, copies: Copies, noise: Noise, as_before: Trace
) -> list[Trace]:
    """Run the guide with the random numbers of before, and with the draws of before, if it can."""
    runs: list[Trace] = []
    with suppress(Exception):  # its noise is not one draw for each datum: rejection sampling, for example
        with ReplayedNoise([noise]):
            runs.append(run_one(guide, arranged, copies, (0, 0)))
        runs.append(run_one(guide, arranged, copies, (0, 0), as_before))
    return runs


def _arranged(value: Tensor, dim: int, rows: Tensor) -> Tensor:
    has_rows = value.dim() >= -dim and value.shape[dim] == len(rows)
    return value.index_select(dim, rows.to(value.device)) if has_rows else value


def _of_rows(draw: Tensor, rows: Tensor) -> Tensor:
    """Return random numbers in another arrangement of the data."""
    dims = [dim for dim, size in enumerate(draw.shape) if size == len(rows)]
    return _arranged(draw, dims[0] - draw.dim(), rows) if dims else draw


def _changes(
    by_guide: Trace,
    by_model: Trace,
    run: tuple[list[Trace], Trace, Tensor],
    names: list[str],
    data_dim: int,
) -> dict[str, Tensor]:
    """Return the change of each site's density or draw, `(N,)`, by name, for the sites that change at all.

    A datum whose change is rounding has 0.
    """
    guide_runs, model_run, rows = run
    found: dict[str, Tensor] = {}
    for whole, others in ((by_guide, guide_runs), (by_model, [model_run])):
        for name in names:
            sites = [other.nodes[name] for other in others if name in other.nodes]
            if not sites or name not in whole.nodes:
                continue
            changes = [_change_of_site(whole.nodes[name], site, data_dim, rows) for site in sites]
            change = torch.stack(changes).amin(0)
            if bool((change > 0).any()):
                found[name] = torch.maximum(change, found.get(name, change))
    return found


def _change_of_site(one: dict[str, Any], two: dict[str, Any], data_dim: int, rows: Tensor) -> Tensor:
    """Return the largest change of each datum's density and draw at a site, `(N,)`."""
    change = _change(unscaled_log_prob(one), unscaled_log_prob(two), data_dim, rows)
    if one["is_observed"]:
        return change
    dim = data_dim - one["fn"].event_dim
    return torch.maximum(change, _change(one["value"], two["value"], dim, rows))


def _change(before: Tensor, after: Tensor, dim: int, rows: Tensor) -> Tensor:
    """Return the largest change of each datum's numbers, 0 for rounding: `(N,)`."""
    before, after = _arranged(in_64_bits(before), dim, rows), in_64_bits(after)
    if before.shape != after.shape or before.dim() < -dim or before.shape[dim] != len(rows):
        return torch.zeros(len(rows))
    change = (after - before).abs().nan_to_num(0.0)
    change = change.where(~torch.isclose(after, before, 1e-4, 1e-4, equal_nan=True), change.new_zeros(()))
    return change.movedim(dim, 0).flatten(1).amax(1).cpu() if change.dim() > 1 else change.cpu()
