"""Importance weights of any model/guide pair, datum by datum, from one run of K copies:

    log w_k = log p(x, z_k) - log q(z_k | x),    z_k ~ q(z | x),    (K, B)

Sites that the guide marks for enumeration, such as M2's class y, are summed out within each particle:

    log w_k = log sum_y w_ky,    w_ky = p(x, y, z_ky) / q(z_ky | x, y),    z_ky ~ q(z | x, y)

q(y | x) has no part in these weights. It has a part in the ELBO, whose terms come from the same draws:

    e_k = sum_y q(y | x) [ log w_ky - log q(y | x) ],    ELBO = E[ e_k ]  <=  E[ log w_k ]  <=  log p(x)

So are the model's latents with finitely many values that the guide lacks. For the evidence of all data
together, the weights of the data are multiplied by one another, and by p / q of what lies outside of the
data's plate:

    log w_k = log p(t_k) - log q(t_k) + sum_b log w_kb,    (K, 1)

Log densities enter without any scale: a weight contains neither a beta nor a plate's N/B. `layout.py`
says which sites enter, and how the copies are run. Evaluation and the importance-weighted
objectives use these weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.programs.contraction import Contraction, expected_over_values, summed_over_values
from pyrovae.programs.copies import PARTICLES
from pyrovae.programs.densities import unscaled_log_prob
from pyrovae.programs.layout import Layout, traces_of
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.repeats import fingerprints
from pyrovae.programs.rows import Arguments
from pyrovae.programs.structure import members_of


def log_densities(
    model_trace: Trace, guide_trace: Trace, x: Tensor, layout: Layout
) -> tuple[Tensor, Tensor]:
    """Return log p(x, z) and log q(z | x) of each datum of a run under particles, `(*values, K, B)` each.

    `values` is the dimension of an enumerated site. This site is summed over, not drawn, so its probability
    q has no part in log q(z | x). Sites outside of the data's plate have no part either.
    """
    for trace in (model_trace, guide_trace):
        trace.compute_log_prob()
    # Sums in 64-bit stay in 64-bit; sums in 16-bit would be too coarse.
    dtype = torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.float32
    zero = x.new_zeros((), dtype=dtype)
    p, q = (
        sum(
            (
                per_datum(_density(trace.nodes[name], layout), layout)
                for name in names
                if name not in layout.outside
            ),
            zero,
        )
        for trace, names in ((model_trace, layout.sites.log_p), (guide_trace, layout.sites.log_q))
    )
    return p, q


def _of_all_data(of_each: Tensor, model_trace: Trace, guide_trace: Trace, layout: Layout) -> Tensor:
    """Return the values of all data together if they have one weight, `(K, 1)`; else as they are."""
    if not layout.joint:
        return of_each
    signs = ((1, model_trace, layout.sites.log_p), (-1, guide_trace, layout.sites.log_q))
    outside = (
        sign * _density(trace.nodes[name], layout)
        for sign, trace, names in signs
        for name in names
        if name in layout.outside
    )
    return joined(of_each, outside, layout)


def joined(of_each: Tensor, outside: Iterable[Tensor], dimensions: Dimensions) -> Tensor:
    """Add up the values of all data and the log densities outside of their plate: `(K, B)` to `(K, 1)`."""
    total = of_each.reshape(-1, of_each.shape[-1] if of_each.dim() else 1).sum(-1, keepdim=True)
    for log_prob in outside:
        full = _with_all_plates(log_prob, dimensions)
        over_plates = full.flatten(-dimensions.depth) if dimensions.depth else full.unsqueeze(-1)
        total = total + over_plates.sum(-1, keepdim=True)
    return total


def _density(site: Mapping[str, Any], layout: Layout) -> Tensor:
    """Return a site's log density without its scale.

    Where a site that is summed out is masked, nothing depends on it, and each of its C values counts 1/C.
    """
    log_prob = unscaled_log_prob(site)
    mask = site["mask"]
    if site["name"] not in layout.sites.summed_out or mask is None or mask is True:
        return log_prob
    values = len(site["fn"].enumerate_support(expand=False))
    mask = torch.as_tensor(mask, device=log_prob.device)
    return log_prob.where(mask, log_prob.new_tensor(-math.log(values)))


class Scores(NamedTuple):
    """The worth of the draws of some data, `(K, B)` each, or `(K, 1)` for all data together.

    Attributes:
        log_weights: the log importance weights, with enumerated sites summed out.
        elbo_terms: the terms whose mean over the draws is the ELBO; the log weights themselves if the guide
            enumerates no site.
        fingerprints: numbers that are equal where the draws of all discrete latents and points are equal;
            None if there are no such latents (see `programs.repeats`).
    """

    log_weights: Tensor
    elbo_terms: Tensor
    fingerprints: Tensor | None


def scores(pair: ModelAndGuide, arguments: Arguments, num_particles: int, layout: Layout) -> Scores:
    """Score the draws of K copies of a pair.

    Args:
        pair: a pair.
        arguments: the arguments of both programs, the data `(B, *x_shape)` first.
        num_particles: K.
        layout: the result of `layout_of`.
    """
    x, runs = arguments.args[0], traces_of(pair, arguments, num_particles, layout)
    found = [scores_of(model_trace, guide_trace, x, layout) for model_trace, guide_trace in runs]
    marks = [part.fingerprints for part in found if part.fingerprints is not None]
    return Scores(
        torch.cat([part.log_weights for part in found]),
        torch.cat([part.elbo_terms for part in found]),
        torch.cat(marks) if marks else None,
    )


def scores_of(model_trace: Trace, guide_trace: Trace, x: Tensor, layout: Layout) -> Scores:
    """Score the draws of a run under particles, from its traces."""
    plate = None if layout.joint else layout.data_plate
    drawn = layout.sites.log_q
    repeated = fingerprints(guide_trace, drawn, layout.depth, layout.data_dim, plate)
    log_weights = weights_of(model_trace, guide_trace, x, layout)
    if not layout.in_guide:
        return Scores(log_weights, log_weights, repeated)
    if layout.several:
        terms = _contracted(expected_over_values, model_trace, guide_trace, layout)
        return Scores(log_weights, terms, repeated)
    log_p, log_q = log_densities(model_trace, guide_trace, x, layout)
    (enumerated_site,) = (guide_trace.nodes[name] for name in layout.in_guide)
    probabilities = per_datum(_density(enumerated_site, layout), layout).exp()
    terms = elbo_terms(log_p - log_q, probabilities)
    return Scores(log_weights, _of_all_data(terms, model_trace, guide_trace, layout), repeated)


def weights_of(model_trace: Trace, guide_trace: Trace, x: Tensor, layout: Layout) -> Tensor:
    """Return the log weights of a run under particles, with enumerated sites summed out.

    Returns:
        `(K, B)`, or `(K, 1)` if one weight is for all data together.
    """
    if layout.several:
        return _contracted(summed_over_values, model_trace, guide_trace, layout)
    log_p, log_q = log_densities(model_trace, guide_trace, x, layout)
    return _of_all_data(sum_out(log_p - log_q), model_trace, guide_trace, layout)


def _contracted(contract: Contraction, model_trace: Trace, guide_trace: Trace, layout: Layout) -> Tensor:
    """Contract the densities of a pair with several enumerated sites: `(K, B)`, or `(K, 1)` if joint."""
    sizes = {
        frame.name: members_of(frame, site)
        for site in model_trace.nodes.values()
        for frame in site.get("cond_indep_stack", ())
    }
    names = [PARTICLES, *([] if layout.joint or layout.data_plate is None else [layout.data_plate])]
    kept = {name: sizes[name] for name in names if name in sizes}
    found = contract(model_trace, guide_trace, layout.sites, partial(_density, layout=layout), kept)
    return found.reshape(kept.get(PARTICLES, 1), -1)


def by_value(model_trace: Trace, guide_trace: Trace, x: Tensor, layout: Layout) -> Tensor:
    """Return the log weights of a run before the enumerated site is summed out.

    Returns:
        `(K, C, B)`, where C is the number of the site's values; 1 if there is no such site.
    """
    log_p, log_q = log_densities(model_trace, guide_trace, x, layout)
    log_weights = log_p - log_q
    return log_weights.reshape(-1, *log_weights.shape[-2:]).transpose(0, 1)


def sum_out(log_weights: Tensor) -> Tensor:
    """Sum weights over the enumerated values, given their logarithms: `(*values, K, B)` to `(K, B)`."""
    return log_weights if log_weights.dim() <= 2 else log_weights.flatten(0, -3).logsumexp(0)


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


class Dimensions(Protocol):
    """The dimensions of log densities: the number of those of plates, and that of the data's plate."""

    @property
    def depth(self) -> int: ...

    @property
    def data_dim(self) -> int: ...


def per_datum(log_prob: Tensor, dimensions: Dimensions) -> Tensor:
    """Sum a log density over all plates but the data's: `(*values, K, *plates)` to `(*values, K, B)`."""
    full = _with_all_plates(log_prob, dimensions)
    if dimensions.depth == 1:
        return full
    full = full.movedim(dimensions.data_dim, -1)
    return full.flatten(-dimensions.depth, -2).sum(-2)


def _with_all_plates(log_prob: Tensor, dimensions: Dimensions) -> Tensor:
    missing = max(0, dimensions.depth + 1 - log_prob.dim())
    return log_prob.reshape((*[1] * missing, *log_prob.shape))
