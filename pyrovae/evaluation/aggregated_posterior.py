"""The aggregated posterior q(z) = mean_n q(z | x_n): draws from it, and their densities.

Each draw is scored under q(z | x_m) for every datum m: the guide is conditioned on the draws and run for
all data at once. z stands for all latents together. Classes are drawn and scored like any other latent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyro
import torch
from pyro import poutine
from pyro.distributions import MaskedDistribution
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.compute.precision import in_64_bits
from pyrovae.errors import InputError
from pyrovae.evaluation.chunking import in_chunks
from pyrovae.programs.copies import PARTICLES, given_values, run_copies
from pyrovae.programs.densities import trace_log_probs
from pyrovae.programs.distributions import factors_of
from pyrovae.programs.layout import Layout, run_model
from pyrovae.programs.log_weights import per_datum
from pyrovae.programs.pair import ModelAndGuide, Program
from pyrovae.programs.repeats import may_repeat
from pyrovae.programs.rows import Arguments
from pyrovae.programs.running import traced
from pyrovae.programs.sites import latent_sites
from pyrovae.programs.values import changed
from pyrovae.programs.ways import needs_all

T = TypeVar("T")

DATA = 1000  # the number of data that pass through the guide's networks at a time
_TOLERANCE = 0.01  # nats by which two densities of one draw may differ
_PROBES = 100  # the number of data with which `separate_sites` tests what a density depends on

Codes = dict[str, Tensor]
"""Values of latents by site, `(R, *inner_plates, *event_shape)` for R draws."""


@dataclass(frozen=True)
class Draws:
    """R draws of all latents: one for each datum in order, then another one for each, and so on.

    Attributes:
        codes: the draws by site.
        event_dims: the number of event dimensions of each site.
        inner_plates: the dimensions of each site's plates other than the data's.
        log_p: each site's log density under the model, `(R,)`.
        log_q: each site's log density under the guide, as it drew them, `(R,)`.
        log_p_dims: the log density of each dimension, in the shape of the codes, for the sites that depend
            on no other site and are independent over dimensions, in model and guide.
        separate: the sites that depend on no other site.
        repeatable: the sites whose draws may repeat, since they are discrete or points.
    """

    codes: Codes
    event_dims: dict[str, int]
    inner_plates: dict[str, tuple[int, ...]]
    log_p: dict[str, Tensor]
    log_q: dict[str, Tensor]
    log_p_dims: dict[str, Tensor]
    separate: tuple[str, ...]
    repeatable: tuple[str, ...]

    def __len__(self) -> int:
        return len(next(iter(self.log_p.values())))


def draws_of_guide(
    pair: ModelAndGuide, data: Arguments, count: int, layout: Layout, separate: tuple[str, ...]
) -> Draws:
    """Draw `count` times from the guide for each datum."""
    last: list[Trace] = []

    def of_rows(rows: slice) -> tuple[dict[str, Tensor], ...]:
        with pyro.validation_enabled(False):
            arguments = data.rows(rows)
            by_guide = run_copies(
                layout.ways.guide, pair.guide, arguments, layout.of_guide(count), extras=_DIMENSIONS
            )
            model_trace, guide_trace = run_model(pair, arguments, count, layout, by_guide, _DIMENSIONS)
        of_model, of_guide = trace_log_probs(model_trace), trace_log_probs(guide_trace)
        drawn, prior, own, dims = {}, {}, {}, {}
        for name in latent_sites(guide_trace):
            site = model_trace.nodes[name]
            drawn[name] = changed(partial(_data_second, site, layout), site["value"])
            prior[name] = per_datum(in_64_bits(of_model[name]), layout)
            own[name] = per_datum(in_64_bits(of_guide[name]), layout)
            by_dimension = [trace.nodes[name][_BY_DIMENSION] for trace in (model_trace, guide_trace)]
            if name in separate and all(part is not None for part in by_dimension):
                dims[name] = in_64_bits(_data_second(site, layout, by_dimension[0]))
        last[:] = model_trace, guide_trace
        return drawn, prior, own, dims

    parts = _in_chunks_of_data(of_rows, data, layout)
    model_trace, guide_trace = last
    joined = [
        {name: changed(_joined, *(part[i][name] for part in parts)) for name in parts[0][i]}
        for i in range(4)
    ]
    sites = {name: model_trace.nodes[name] for name in joined[0]}
    event_dims = {name: site["fn"].event_dim for name, site in sites.items()}
    inner_plates = {name: _inner_plates(site, layout) for name, site in sites.items()}
    repeatable = tuple(name for name in joined[0] if may_repeat(guide_trace.nodes[name]))
    codes, log_p, log_q, log_p_dims = joined
    return Draws(codes, event_dims, inner_plates, log_p, log_q, log_p_dims, separate, repeatable)


def _in_chunks_of_data(call: Callable[[slice], T], data: Arguments, layout: Layout) -> list[T]:
    num_data = len(data.args[0])
    sizes = [layout.at_once(most, num_data) for most in (DATA, 1)]
    return in_chunks(call, num_data, *sizes)[0]


def _joined(*parts: Tensor) -> Tensor:
    """Join draws for some data each, `(K, B, ...)`, to `(K * N, ...)`."""
    return torch.cat(parts, 1).flatten(0, 1)


def _data_second(site: Mapping[str, Any], layout: Layout, values: Tensor) -> Tensor:
    """Move the data's dimension of a site's values under particles to the second place.

    `(K, *plates, *event_shape)` becomes `(K, B, *inner_plates, *event_shape)`, where the inner plates are
    those of the site other than the data's.
    """
    event_dim = site["fn"].event_dim
    event = values.shape[values.dim() - event_dim :]
    sizes = [values.shape[dim - event_dim] for dim in _inner_plates(site, layout)]
    values = values.movedim(layout.data_dim - event_dim, 1)
    return values.reshape(*values.shape[:2], *sizes, *event)


def _inner_plates(site: Mapping[str, Any], layout: Layout) -> tuple[int, ...]:
    """Return the dimensions of a site's plates other than the data's, from the left."""
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized and frame.name != PARTICLES]
    return tuple(sorted(frame.dim for frame in frames if frame.dim != layout.data_dim))


def _log_prob_by_dimension(site: Mapping[str, Any]) -> Tensor | None:
    """Return the log density of each dimension of a latent, if independent and not masked, else None."""
    if site["is_observed"]:
        return None
    factors = factors_of(site["fn"])
    masked = site["mask"] is not None or isinstance(factors, MaskedDistribution)
    return None if masked or factors is None else factors.log_prob(site["value"])


_BY_DIMENSION = "log_prob_by_dimension"
_DIMENSIONS = {_BY_DIMENSION: _log_prob_by_dimension}


def log_q_of_all(
    draws: Draws, guide: Program, data: Arguments, rows: slice, layout: Layout
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Score some draws r under all data m.

    Returns:
        log q(z_r | x_m) by site, `(c, N)`; and the aggregated posterior's log density log q(z_rd) of each
        dimension by site, `(c, *inner_plates, *event_shape)`.
    """
    count = rows.stop - rows.start

    def of_data(part: slice) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        given = {
            name: changed(partial(_for_all, draws, name, rows, part.stop - part.start, layout), codes)
            for name, codes in draws.codes.items()
        }
        with pyro.validation_enabled(False):
            trace = run_copies(
                layout.ways.guide,
                guide,
                data.rows(part),
                layout.of_guide(count),
                given_values(given, draws.event_dims),
                _DIMENSIONS,
            )
        log_q, dims = trace_log_probs(trace), {}
        for name in draws.log_p_dims:
            site = trace.nodes[name]
            each = _data_second(site, layout, site[_BY_DIMENSION])
            dims[name] = in_64_bits(each).logsumexp(1)
        return {name: per_datum(in_64_bits(log_q[name]), layout) for name in draws.codes}, dims

    scores, by_dimension = zip(*_in_chunks_of_data(of_data, data, layout), strict=True)
    log_num_data = math.log(len(data.args[0]))
    return (
        {name: torch.cat([part[name] for part in scores], 1) for name in draws.codes},
        {
            name: torch.stack([part[name] for part in by_dimension]).logsumexp(0) - log_num_data
            for name in draws.log_p_dims
        },
    )


def check_scored_alike(draws: Draws, rows: slice, scores: Mapping[str, Tensor]) -> None:
    """Refuse a guide that gives its own draws another density when it scores them again.

    Args:
        draws: the draws.
        rows: the draws that were scored.
        scores: log q(z_r | x_n) by site, `(c,)`, where x_n is the datum for which z_r was drawn.

    Raises:
        InputError: the densities differ by more than rounding, on average over these draws.
    """
    for name, again in scores.items():
        own = draws.log_q[name][rows].to(again.device)
        difference = (again - own).abs().masked_fill(again == own, 0.0).mean().item()
        if not difference <= _TOLERANCE * (1 + 1e-3 * own.abs().mean().item()):
            raise InputError(
                f"the guide gives draws of '{name}' the log density {own.mean().item():.4g} when it draws "
                f"them, and {again.mean().item():.4g} when it scores them again (means over {len(own)} "
                "draws), so their density is not known. Either 32-bit is too coarse for this guide, as it "
                "is for ill-conditioned covariances: use 64-bit, model.double() and x.double(). Or it "
                "computes with random numbers of its own: draw them with pyro.sample."
            )


def _for_all(draws: Draws, name: str, rows: slice, num_data: int, layout: Layout, codes: Tensor) -> Tensor:
    """Expand some draws to particles for all data.

    `(c, *inner_plates, *event_shape)` becomes `(c, *plates, *event_shape)`, with all data in their plate.
    """
    codes = codes[rows]
    event = codes.shape[codes.dim() - draws.event_dims[name] :]
    plates = [1] * layout.depth
    for dim, size in zip(draws.inner_plates[name], codes.shape[1:], strict=False):
        plates[dim] = size
    codes = codes.reshape(len(codes), *plates, *event)
    plates[layout.data_dim] = num_data
    return codes.expand(len(codes), *plates, *event)


def separate_sites(pair: ModelAndGuide, data: Arguments) -> tuple[str, ...]:
    """Return the latents whose density, in model and guide, does not depend on other latents.

    To test this, the values of the other latents are replaced by draws from the prior.

    Raises:
        InputError: the model's prior differs between data.
    """
    some = data if needs_all(pair, data, _PROBES) else data.first(_PROBES)
    drawn = _latents(traced(pair.guide, *some.args, **some.kwargs))
    elsewhere = _latents(traced(pair.model, *some.args, **some.kwargs))

    def densities(program: Program, codes: Codes, probes: Arguments = some) -> dict[str, Tensor]:
        conditioned = poutine.trace(poutine.condition(program, data=codes))
        with pyro.validation_enabled(False):  # the prior may draw what the guide never would
            return trace_log_probs(conditioned.get_trace(*probes.args, **probes.kwargs))

    of_another = densities(pair.model, drawn, some.of_data(lambda values: values.roll(1, 0)))
    before = {program: densities(program, drawn) for program in (pair.model, pair.guide)}
    for name in drawn:
        if not torch.allclose(of_another[name], before[pair.model][name], rtol=1e-4, atol=1e-4):
            raise InputError(
                f"the model's prior of '{name}' differs between data, so there is no single prior to "
                "compare the aggregated posterior with: call without y if the prior depends on y. If it "
                "depends on what is given, call it once for the data of each condition."
            )
    separate = []
    for name, value in drawn.items():
        after = [densities(program, elsewhere | {name: value})[name] for program in before]
        pairs = zip(after, (before[program][name] for program in before), strict=True)
        if all(torch.allclose(one, other, rtol=1e-4, atol=1e-4) for one, other in pairs):
            separate.append(name)
    return tuple(separate)


def _latents(trace: Trace) -> Codes:
    return {name: trace.nodes[name]["value"] for name in latent_sites(trace)}


@contextmanager
def only_own_errors() -> Iterator[None]:
    """Re-raise a distribution's own InputError without the text that Pyro puts around it."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        if isinstance(error.__cause__, InputError):
            raise InputError(str(error.__cause__)) from error
        raise
