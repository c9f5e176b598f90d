"""Importance weights of any model/guide pair, datum by datum, from one run under K particles:

    log w_k = log p(x, z_k) - log q(z_k | x),    z_k ~ q(z | x),    (K, B)

Sites that the guide marks for enumeration, such as M2's class y, are summed out within each particle:

    log w_k = log sum_y w_ky,    w_ky = p(x, y, z_ky) / q(z_ky | x, y),    z_ky ~ q(z | x, y)

q(y | x) has no part in these weights. It has a part in the ELBO, whose terms come from the same draws:

    e_k = sum_y q(y | x) [ log w_ky - log q(y | x) ],    ELBO = E[ e_k ]  <=  E[ log w_k ]  <=  log p(x)

Log densities enter without any scale: a weight contains neither a beta nor a plate's N/B. Evaluation and
the importance-weighted objectives use these weights.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.programs.densities import enumerated_sites, enumeration_weights, trace_log_probs
from pyrovae.programs.pair import ModelAndGuide, Program, with_programs
from pyrovae.programs.repeats import fingerprints
from pyrovae.programs.running import run_pair
from pyrovae.programs.structure import Structure, Traces

PARTICLES = "_particles"  # the name of the plate of particles


class Layout(NamedTuple):
    """The dimensions of the sites' log densities, from the right: plates, particles, enumerated values.

    Attributes:
        depth: the number of dimensions that the plates take; the data's plate takes the first.
        values: the number of values that are summed out; None if nothing is enumerated.
    """

    depth: int
    values: int | None


def layout_of(pair: ModelAndGuide, args: tuple[Any, ...], enumerate: bool = True) -> Layout:
    """Run the pair once, without particles, and read off the layout of its log densities.

    Args:
        pair: a pair whose sites all lie under a plate of the data at dimension -1.
        args: the arguments of both programs, the data `(B, *x_shape)` first.
        enumerate: whether the sites that the guide marks for enumeration will be summed out.

    Raises:
        InputError: the pair has no importance weight for each datum, because it has no latent site, a
            latent site is in one program only, a site lies outside of the data's plate, or there are other
            plates beside an enumerated site.
    """
    return layout(Structure(pair, args, traces=Traces(*run_pair(pair, *args))), enumerate)


def layout(of: Structure, enumerate: bool = True) -> Layout:
    """Return the layout of the log densities of a pair whose structure is known; see `layout_of`."""
    if not of.latents:
        raise InputError(
            "the model has no latent site, so there is nothing to integrate out (a deterministic "
            "autoencoder, for example, has no marginal likelihood): use a model with a latent, such as VAE."
        )
    check_under_data_plate(of)
    depth = max(-plate.dim for plate in of.plates.values() if plate.dim is not None)
    if not (enumerate and of.enumerated):
        return Layout(depth, None)
    if depth > 1:
        raise InputError(
            "the guide has an enumerated site, and there are plates other than the data's, so the site "
            "cannot be summed out for each datum: draw it instead, with enumerate=False."
        )
    trace = of.traces.guide or of.traces.model
    distributions = [trace.nodes[name]["fn"] for name in of.enumerated]
    return Layout(depth, math.prod(len(fn.enumerate_support(expand=False)) for fn in distributions))


def check_under_data_plate(of: Structure) -> None:
    """Refuse programs with a site that is not under the data's plate at dimension -1.

    Raises:
        InputError: a site lies elsewhere. The message names it and says what to do.
    """
    plate = of.data_plate
    fits = plate is not None and plate.dim == -1 and plate.size == of.num_data
    if outside := list(of.sites) if not fits else list(of.in_scope("global")):
        raise InputError(
            f"site '{outside[0]}' is not under a plate of {of.num_data} data at dimension -1: each datum "
            'needs its own log density, so sample it within pyro.plate("data", len(x)).'
        )


def particle_plate(num_particles: int, layout: Layout) -> AbstractContextManager[Any]:
    """Return the plate of K particles, outside of all plates of the pair."""
    plate: AbstractContextManager[Any] = pyro.plate(PARTICLES, num_particles, dim=-1 - layout.depth)
    return plate


def enumerated(guide: Program, layout: Layout) -> Program:
    """Return the guide, run for all values of its enumerated sites, outside of the particles' plate."""
    if not layout.values:
        return guide
    handled: Program = poutine.enum(guide, first_available_dim=-2 - layout.depth)
    return handled


def run_under_particles(
    pair: ModelAndGuide, args: tuple[Any, ...], num_particles: int, layout: Layout
) -> tuple[Trace, Trace]:
    """Run the pair under a plate of K particles, for all values of its enumerated sites.

    Returns:
        The model's trace and the guide's.
    """
    with particle_plate(num_particles, layout):
        return run_pair(with_programs(pair, guide=enumerated(pair.guide, layout)), *args)


def log_densities(
    model_trace: Trace, guide_trace: Trace, x: Tensor, layout: Layout
) -> tuple[Tensor, Tensor]:
    """Return log p(x, z) and log q(z | x) of a run under particles, `(*values, K, B)` each.

    `values` are the dimensions of enumerated sites. These sites are summed over, not drawn, so their
    probability q has no part in log q(z | x).
    """
    summed_out = enumerated_sites(guide_trace)
    drawn = {
        name: log_prob
        for name, log_prob in trace_log_probs(guide_trace).items()
        if name in model_trace.nodes and name not in summed_out
    }
    # Sums in 64-bit stay in 64-bit; sums in 16-bit would be too coarse.
    zero = x.new_zeros((), dtype=torch.promote_types(x.dtype, torch.float32))
    log_p = sum((per_datum(value, layout.depth) for value in trace_log_probs(model_trace).values()), zero)
    log_q = sum((per_datum(value, layout.depth) for value in drawn.values()), zero)
    return log_p, log_q


class Scores(NamedTuple):
    """What the draws of some data are worth, `(K, B)` each.

    Attributes:
        log_weights: the log importance weights, with enumerated sites summed out.
        elbo_terms: the terms whose mean over the draws is the ELBO; the log weights themselves if no site
            is enumerated.
        fingerprints: numbers that are equal where the draws of all discrete latents and points are equal;
            None if there are no such latents (see `programs.repeats`).
    """

    log_weights: Tensor
    elbo_terms: Tensor
    fingerprints: Tensor | None


def scores(pair: ModelAndGuide, args: tuple[Any, ...], num_particles: int, layout: Layout) -> Scores:
    """Score the draws of one run under K particles.

    Args:
        pair: a pair.
        args: the arguments of both programs, the data `(B, *x_shape)` first.
        num_particles: K.
        layout: the result of `layout_of`.
    """
    return scores_of(*run_under_particles(pair, args, num_particles, layout), args[0], layout)


def scores_of(model_trace: Trace, guide_trace: Trace, x: Tensor, layout: Layout) -> Scores:
    """Score the draws of a run under particles, from its traces."""
    log_p, log_q = log_densities(model_trace, guide_trace, x, layout)
    log_ratio, repeated = log_p - log_q, fingerprints(guide_trace, layout.depth)
    probabilities = enumeration_weights(guide_trace)
    if not isinstance(probabilities, Tensor):  # nothing is enumerated
        return Scores(log_ratio, log_ratio, repeated)
    return Scores(sum_out(log_ratio), elbo_terms(log_ratio, probabilities), repeated)


def sum_out(log_weights: Tensor) -> Tensor:
    """Sum weights over the enumerated values, given their logarithms: `(*values, K, B)` to `(K, B)`."""
    return log_weights if log_weights.dim() == 2 else log_weights.flatten(0, -3).logsumexp(0)


def elbo_terms(log_weights: Tensor, probabilities: Tensor) -> Tensor:
    """Return the terms of the ELBO, sum_y q(y | x) [log w_y - log q(y | x)]: `(K, B)`.

    Args:
        log_weights: log w_y for each enumerated value, `(*values, K, B)`.
        probabilities: q(y | x), in a shape that broadcasts against the weights. A value of probability 0
            has no part in the sum, even if its weight is 0.
    """
    possible = probabilities > 0
    log_ratio = log_weights - probabilities.where(possible, 1.0).log()
    terms = (probabilities * log_ratio.where(possible, 0.0)).broadcast_to(log_weights.shape)
    return terms if terms.dim() == 2 else terms.flatten(0, -3).sum(0)


def per_datum(log_prob: Tensor, depth: int) -> Tensor:
    """Sum a log density over inner plates: `(*values, K, *inner_plates, B)` to `(*values, K, B)`."""
    missing = max(0, depth + 1 - log_prob.dim())
    full = log_prob.reshape(*[1] * missing, *log_prob.shape)
    return full.sum(dim=tuple(range(-depth, -1))) if depth > 1 else full
