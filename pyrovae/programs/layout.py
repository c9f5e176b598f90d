"""The layout of a pair's log densities, and runs of K copies of the pair in this layout.

From the right, the dimensions are those of the plates, then that of the copies (particles), then those of
enumerated sites: `(*values, K, *plates)`. The layout is found once, on a few data. `ways.py` says how the
copies are run, and `accounting.py` which sites count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pyro import poutine
from pyro.poutine.trace_struct import Trace

from pyrovae.errors import InputError
from pyrovae.programs.accounting import Accounting, accounting
from pyrovae.programs.copies import Copies, Extra, Way, enumerating, run_copies
from pyrovae.programs.enumeration import takes_enumerated_values
from pyrovae.programs.masked_latents import LiftedMasks, count_as_in_model
from pyrovae.programs.pair import ModelAndGuide, Program
from pyrovae.programs.rows import Arguments
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
    pair: ModelAndGuide, arguments: Arguments, enumerate: bool = True, joint: bool = False
) -> Layout:
    """Run the pair, and find the layout of its log densities and the ways to compute them.

    Args:
        pair: a pair.
        arguments: the arguments of both programs for a few data, or for all if they need them.
        enumerate: whether the sites that the guide marks for enumeration will be summed out.
        joint: whether one weight is for all data together. Sites may then lie outside of the data's plate.

    Raises:
        InputError: the pair has no importance weight for each datum: it has no latent site, its densities
            do not form a weight (see `accounting`), a site lies outside of the data's plate, the programs
            subsample the data, or several enumerated sites stand beside a network that does not take
            leading dimensions.
    """
    of = Structure(pair, *arguments)
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
    arguments: Arguments,
    num_particles: int,
    layout: Layout,
    extras: Mapping[str, Extra] | None = None,
) -> tuple[Trace, Trace]:
    """Run K copies of the pair, for all values of its enumerated sites.

    Where the layout says so, it is one copy without a dimension for particles (`traces_of` runs them all).

    Returns:
        The model's trace and the guide's, in the layout of leading dimensions.
    """
    copies = layout.of_guide(num_particles)
    by_guide = run_copies(layout.way("guide"), pair.guide, arguments, copies, extras=extras)
    return run_model(pair, arguments, num_particles, layout, by_guide, extras)


def run_model(
    pair: ModelAndGuide,
    arguments: Arguments,
    num_particles: int,
    layout: Layout,
    by_guide: Trace,
    extras: Mapping[str, Extra] | None = None,
) -> tuple[Trace, Trace]:
    """Run K copies of the model on the guide's draws, and return both traces without plates' own sites."""
    copies = layout.of_model(num_particles)
    model = LiftedMasks()(pair.model)
    by_model = run_copies(layout.way("model"), model, arguments, copies, by_guide, extras)
    model_trace, guide_trace = map(poutine.util.prune_subsample_sites, (by_model, by_guide))
    count_as_in_model(model_trace, guide_trace)
    return model_trace, guide_trace


def traces_of(
    pair: ModelAndGuide, arguments: Arguments, num_particles: int, layout: Layout
) -> Iterator[tuple[Trace, Trace]]:
    """Yield the traces of model and guide of K copies: of one run, or of one run for each copy."""
    for _ in range(num_particles if layout.one_at_a_time else 1):
        yield run_under_particles(pair, arguments, num_particles, layout)
