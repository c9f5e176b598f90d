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

Log densities enter without any scale: a weight contains neither a beta nor a plate's N/B. `accounting.py`
says which sites enter, and `ways.py` how the copies are run. Evaluation and the importance-weighted
objectives use these weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.programs.accounting import Accounting, accounting
from pyrovae.programs.contraction import Contraction, expected_over_values, summed_over_values
from pyrovae.programs.copies import PARTICLES, Copies, Extra, Way, enumerating, run_copies
from pyrovae.programs.densities import unscaled_log_prob
from pyrovae.programs.enumeration import takes_enumerated_values
from pyrovae.programs.pair import ModelAndGuide, Program
from pyrovae.programs.repeats import fingerprints
from pyrovae.programs.rows import Arguments
from pyrovae.programs.sites import members_of
from pyrovae.programs.structure import Structure
from pyrovae.programs.ways import LEADING, Ways, ways_of


@dataclass(frozen=True)
class Layout:
    """The dimensions of a pair's log densities, and the ways to compute those of many copies.

    Attributes:
        depth: the number of dimensions that the plates take.
        data_dim: the dimension of the data's plate, counted from the right.
        data_plate: the name of that plate; None if there is none.
        sites: the part of each site in the weights.
        joint: whether one weight is for all data together.
        outside: the sites in the weights that lie outside of the data's plate.
        values: the number of values that are summed out; None if nothing is enumerated.
        in_model: whether the model alone has the enumerated site.
        several: whether there are several enumerated sites, or one that is not directly under the data's
            plate. They are summed out by contraction, and each has a dimension of its own in all ways.
        ways: the ways to run copies of the guide and of the model.
        whole: whether the pair runs on all of its data only.
    """

    depth: int
    data_dim: int
    data_plate: str | None
    sites: Accounting
    joint: bool = False
    outside: frozenset[str] = frozenset()
    values: int | None = None
    in_model: bool = False
    several: bool = False
    ways: Ways = LEADING
    whole: bool = False

    @property
    def in_guide(self) -> tuple[str, ...]:
        """The enumerated sites that the guide has."""
        return tuple(name for name in self.sites.summed_out if name not in self.sites.in_model_alone)

    @property
    def one_at_a_time(self) -> bool:
        """Whether a run is one copy, with dimensions for several enumerated sites but not for particles."""
        return self.several and self.ways != LEADING

    def way(self, program: Literal["guide", "model"]) -> Way:
        """Return the way to run copies of a program. Several enumerated sites have dimensions always."""
        ways: Ways = LEADING if self.several else self.ways
        way: Way = getattr(ways, program)
        return way

    def at_once(self, most: int, num_data: int) -> int:
        """Return how many of N data to run at once, if at most `most` are wanted."""
        return num_data if self.whole else most

    @property
    def notes(self) -> tuple[str, ...]:
        """What a result of these weights leaves out, in words."""
        sites, found = self.sites, []
        if sites.parameters:
            names = ", ".join(map(repr, sites.parameters))
            found.append(f"given {names}, which the guide sets to a point (their priors do not count)")
        if sites.training_terms:
            names = ", ".join(map(repr, sites.training_terms))
            found.append(f"without the guide's terms of training ({names})")
        return tuple(found)

    def of_guide(self, particles: int | None = 1) -> Copies:
        """Return the kind of the guide's copies."""
        values = 1 if self.in_model else self.values or 1
        return self._copies(particles, values, self.in_guide)

    def of_model(self, particles: int | None = 1) -> Copies:
        """Return the kind of the model's copies."""
        copies = self._copies(particles, self.values or 1, self.sites.in_model_alone)
        return copies._replace(first=not self.several, draws=False)

    def _copies(self, particles: int | None, values: int, enumerated: tuple[str, ...]) -> Copies:
        particles = None if self.one_at_a_time else particles
        return Copies(
            particles, self.depth, self.data_dim, self.data_plate, values, enumerated, self.several
        )


def layout_of(
    pair: ModelAndGuide,
    args: tuple[Any, ...],
    enumerate: bool = True,
    kwargs: Mapping[str, Any] | None = None,
    joint: bool = False,
) -> Layout:
    """Run the pair on a few data, and find the layout of its log densities and the ways to compute them.

    Args:
        pair: a pair.
        args: the arguments of both programs, the data `(B, *x_shape)` first.
        enumerate: whether the sites that the guide marks for enumeration will be summed out.
        kwargs: keyword arguments of both programs.
        joint: whether one weight is for all data together. Sites may then lie outside of the data's plate.

    Raises:
        InputError: the pair has no importance weight for each datum: it has no latent site, its densities
            do not form a weight (see `accounting`), a site lies outside of the data's plate, the programs
            subsample the data, or several enumerated sites stand beside a network that does not take
            leading dimensions.
    """
    of = Structure(pair, args, kwargs)
    if not of.latents:
        raise InputError(
            "the model has no latent site, so there is nothing to integrate out (a deterministic "
            "autoencoder, for example, has no marginal likelihood): use a model with a latent, such as VAE."
        )
    sites = accounting(of, enumerate)
    if not joint:
        check_under_data_plate(of, sites)
    found = _without_ways(of, sites, joint)
    return replace(found, ways=_ways(pair, of, found))


def _without_ways(of: Structure, sites: Accounting, joint: bool) -> Layout:
    depth = max((-plate.dim for plate in of.plates.values() if plate.dim is not None), default=0)
    data = of.data_plate
    summed = sites.summed_out
    several = len(summed) > 1 or any(of[name].scope != "local" for name in summed)
    values = None
    if summed and not several:
        trace = of.traces.model if sites.in_model_alone else of.traces.guide or of.traces.model
        values = len(trace.nodes[summed[0]]["fn"].enumerate_support(expand=False))
    return Layout(
        depth,
        -1 if data is None or data.dim is None else data.dim,
        None if data is None else data.name,
        sites,
        joint,
        frozenset(name for name in (*sites.log_p, *sites.log_q) if of[name].scope == "global"),
        values,
        bool(sites.in_model_alone) and not several,
        several,
    )


def _ways(pair: ModelAndGuide, of: Structure, found: Layout) -> Ways:
    sizes = {plate.size for plate in of.plates.values()} | {found.values or 1}
    guide, model = found.of_guide(), found.of_model()
    if not found.several:
        return ways_of(pair, of.arguments, guide, model, not found.joint, sizes)
    if not takes_enumerated_values(pair, of.arguments, found.of_guide(None), found.of_model(None)):
        raise InputError(
            f"the sites {', '.join(map(repr, found.sites.summed_out))} are enumerated, and not just one "
            "site directly under the data's plate, but the programs' networks do not take leading "
            "dimensions (`(C, B, ...)` in place of `(B, ...)`), so the sites cannot be summed out: use "
            "networks that act on the last dimensions only, or draw the sites, without "
            "infer={'enumerate': 'parallel'}."
        )
    guide, model = (copies._replace(enumerated=(), several=False) for copies in (guide, model))
    ways = ways_of(pair, of.arguments, guide, model, False, sizes)
    return LEADING if ways == LEADING else Ways("single", "single")


def check_under_data_plate(of: Structure, sites: Accounting) -> None:
    """Refuse programs with a site that is not under the data's plate, and programs that subsample it.

    Raises:
        InputError: a site lies elsewhere, or the plate has fewer members than there are data. The message
            names the site or plate, and says what to do.
    """
    plate, num_data = of.data_plate, of.num_data
    if plate is not None and plate.size != num_data:
        raise InputError(
            f"plate '{plate.name}' takes {plate.size} of {num_data} data, so the others would have no "
            f"evidence: open it with subsample_size=len(x), or without subsample_size."
        )
    counted = (*sites.log_p, *sites.log_q)
    outside = [name for name in counted if plate is None or of[name].scope == "global"]
    if outside:
        remedy = (
            'sample it within pyro.plate("data", len(x)), or estimate the evidence of all data together '
            "with joint=True"
        )
        raise InputError(
            f"site '{outside[0]}' is not under a plate of {num_data} data: each datum needs its own log "
            f"density, so {remedy}."
        )


def enumerated(guide: Program, layout: Layout) -> Program:
    """Return the guide, run for all values of its enumerated sites, outside of the particles' plate."""
    return enumerating(guide, layout.of_guide())


def run_under_particles(
    pair: ModelAndGuide,
    args: tuple[Any, ...],
    num_particles: int | None,
    layout: Layout,
    kwargs: Mapping[str, Any] | None = None,
    extras: Mapping[str, Extra] | None = None,
) -> tuple[Trace, Trace]:
    """Run K copies of the pair, for all values of its enumerated sites.

    Where the layout says so, it is one copy without a dimension for particles (`traces_of` runs them all).

    Returns:
        The model's trace and the guide's, in the layout of leading dimensions.
    """
    arguments = Arguments(args, kwargs or {})
    copies = layout.of_guide(num_particles)
    by_guide = run_copies(layout.way("guide"), pair.guide, arguments, copies, extras=extras)
    return run_model(pair, arguments, num_particles, layout, by_guide, extras)


def run_model(
    pair: ModelAndGuide,
    arguments: Arguments,
    num_particles: int | None,
    layout: Layout,
    by_guide: Trace,
    extras: Mapping[str, Extra] | None = None,
) -> tuple[Trace, Trace]:
    """Run K copies of the model on the guide's draws, and return both traces without plates' own sites."""
    copies = layout.of_model(num_particles)
    by_model = run_copies(layout.way("model"), pair.model, arguments, copies, by_guide, extras)
    model_trace, guide_trace = map(poutine.util.prune_subsample_sites, (by_model, by_guide))
    return model_trace, guide_trace


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
    """Add up the values of all data, and log p / q outside of their plate, if they have one weight.

    Returns:
        `(K, 1)`; or the values `(K, B)` as they are.
    """
    if not layout.joint:
        return of_each
    total = of_each.reshape(-1, of_each.shape[-1] if of_each.dim() else 1).sum(-1, keepdim=True)
    for sign, trace, names in ((1, model_trace, layout.sites.log_p), (-1, guide_trace, layout.sites.log_q)):
        for name in names:
            if name in layout.outside:
                total = total + sign * _over_plates(_density(trace.nodes[name], layout), layout)
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


def scores(
    pair: ModelAndGuide,
    args: tuple[Any, ...],
    num_particles: int,
    layout: Layout,
    kwargs: Mapping[str, Any] | None = None,
) -> Scores:
    """Score the draws of K copies of a pair.

    Args:
        pair: a pair.
        args: the arguments of both programs, the data `(B, *x_shape)` first.
        num_particles: K.
        layout: the result of `layout_of`.
        kwargs: keyword arguments of both programs.
    """
    runs = traces_of(pair, args, num_particles, layout, kwargs)
    found = [scores_of(model_trace, guide_trace, args[0], layout) for model_trace, guide_trace in runs]
    marks = [part.fingerprints for part in found if part.fingerprints is not None]
    return Scores(
        torch.cat([part.log_weights for part in found]),
        torch.cat([part.elbo_terms for part in found]),
        torch.cat(marks) if marks else None,
    )


def traces_of(
    pair: ModelAndGuide,
    args: tuple[Any, ...],
    num_particles: int,
    layout: Layout,
    kwargs: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Trace, Trace]]:
    """Yield the traces of model and guide of K copies: of one run, or of one run for each copy."""
    for _ in range(num_particles if layout.one_at_a_time else 1):
        yield run_under_particles(pair, args, num_particles, layout, kwargs)


def scores_of(model_trace: Trace, guide_trace: Trace, x: Tensor, layout: Layout) -> Scores:
    """Score the draws of a run under particles, from its traces."""
    plate = None if layout.joint else layout.data_plate
    repeated = fingerprints(guide_trace, layout.depth, layout.data_dim, plate)
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


def per_datum(log_prob: Tensor, layout: Layout) -> Tensor:
    """Sum a log density over all plates but the data's: `(*values, K, *plates)` to `(*values, K, B)`."""
    full = _with_all_plates(log_prob, layout)
    if layout.depth == 1:
        return full
    full = full.movedim(layout.data_dim, -1)
    return full.flatten(-layout.depth, -2).sum(-2)


def _over_plates(log_prob: Tensor, layout: Layout) -> Tensor:
    """Sum a log density over all plates, for a site outside of the data's: `(K, *plates)` to `(K, 1)`."""
    full = _with_all_plates(log_prob, layout)
    return full.flatten(-layout.depth).sum(-1, keepdim=True) if layout.depth else full.unsqueeze(-1)


def _with_all_plates(log_prob: Tensor, layout: Layout) -> Tensor:
    missing = max(0, layout.depth + 1 - log_prob.dim())
    return log_prob.reshape((*[1] * missing, *log_prob.shape))
