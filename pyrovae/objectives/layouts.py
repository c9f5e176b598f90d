"""The layout of a pair's dimensions, found once for each pair and kind of call.

From the right, the dimensions are those of the plates, then that of the particles, then those of the
enumerated sites. `running.py` runs programs in this layout.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.objectives.model_latents import ModelLatents, model_latents
from pyrovae.objectives.weights import unweighted
from pyrovae.programs.accounting import Accounting, accounting
from pyrovae.programs.copies import PARTICLES, Copies
from pyrovae.programs.enumeration import takes_enumerated_values
from pyrovae.programs.pair import ModelAndGuide, with_programs
from pyrovae.programs.reparameterisation import check_gradient_flows, is_marked_for_enumeration
from pyrovae.programs.rows import Arguments
from pyrovae.programs.sites import is_sample, latent_sites, role_of
from pyrovae.programs.structure import Structure
from pyrovae.programs.ways import LEADING, Ways, ways_of


class Layout(NamedTuple):
    """The dimensions of a pair's log densities, counted from the right.

    Attributes:
        depth: the number of dimensions that the plates take, at least 1.
        alone: the treatment of the latents that only the model has.
        data: the name and the dimension of the data's plate, for importance weights and for ways that need
            it; None if there is none.
        outside: the names of the drawn sites outside of the data's plate, for importance weights. If there
            are any, all data have one weight.
        sites: the part of each site in importance weights.
        known: the sites of both programs, and whether each is enumerated, for importance weights.
        enumerated: the site of the guide that is enumerated, if it is the only one; else none.
        values: the number of values of the only enumerated site, of guide or model; else 1.
        ways: the ways to run copies of both programs for particles and enumerated values.
        has_copies: whether the ways have been chosen for particles or enumerated values.
        independent: the model's sites that do not depend on the only enumerated site, if it is the model's.
    """

    depth: int
    alone: ModelLatents
    data: tuple[str, int] | None = None
    outside: tuple[str, ...] = ()
    sites: Accounting | None = None
    known: frozenset[tuple[str, bool]] = frozenset()
    enumerated: tuple[str, ...] = ()
    values: int = 1
    ways: Ways = LEADING
    has_copies: bool = False
    independent: frozenset[str] = frozenset()

    @property
    def data_dim(self) -> int:
        """The dimension of the data's plate; -1 if there is none."""
        return -1 if self.data is None else self.data[1]

    def of_guide(self, particles: int) -> Copies:
        """Return the kind of the guide's copies, for ways other than leading dimensions."""
        values = self.values if self.enumerated else 1
        return self._copies(particles, values, self.enumerated)

    def of_model(self, particles: int) -> Copies:
        """Return the kind of the model's copies, for ways other than leading dimensions."""
        return self._copies(particles, self.values, tuple(self.alone.summed_out))._replace(draws=False)

    def _copies(self, particles: int | None, values: int, enumerated: tuple[str, ...]) -> Copies:
        plate = None if self.data is None else self.data[0]
        return Copies(particles, self.depth, self.data_dim, plate, values, enumerated)

    def fits(self, model_trace: Trace, guide_trace: Trace) -> bool:
        """Whether traces that were made in this layout have the plates and latents that it says."""
        missing = {name for name in latent_sites(model_trace) if name not in guide_trace.nodes}
        return (
            _depth(model_trace, guide_trace) == self.depth
            and missing == self.alone.summed_out
            and self.alone.left_out.isdisjoint(guide_trace.nodes)
            and (self.sites is None or self.known == _known(model_trace, guide_trace, self.alone))
        )


class Layouts:
    """The layouts of the pairs that an objective has evaluated. It does not keep a pair alive.

    Args:
        importance: whether the objective needs importance weights.
        particles: whether the objective runs several particles side by side.
    """

    def __init__(self, importance: bool = False, particles: bool = False) -> None:
        self.importance, self.particles = importance, particles
        self._known: dict[Any, tuple[list[weakref.ref[Any]], Layout]] = {}

    def forget_ways(self) -> bool:
        """Forget the layouts that have ways to run copies, and return whether there were any."""
        kept = {key: known for key, known in self._known.items() if not known[1].has_copies}
        forgotten = len(kept) < len(self._known)
        self._known = kept
        return forgotten

    def __reduce__(self) -> tuple[type[Layouts], tuple[bool, bool]]:
        return Layouts, (self.importance, self.particles)  # a copy of an objective finds its layouts itself

    def run(
        self,
        pair: ModelAndGuide,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        run: Callable[[Layout], tuple[Trace, Trace]],
    ) -> tuple[Layout, tuple[Trace, Trace]]:
        """Run a pair in its layout, which is found again if the programs have changed since it was found.

        Args:
            pair: the pair, weighted or not.
            args: the arguments of both programs.
            kwargs: their keyword arguments.
            run: runs both programs in a layout and returns the traces of model and guide.
        """
        layout, new = self._of(pair, args, kwargs)
        try:
            traces = run(layout)
            if new or layout.fits(*traces):
                return layout, traces
        except (ValueError, RuntimeError, KeyError, IndexError):
            if new or layout == self._of(pair, args, kwargs, again=True)[0]:
                raise
        layout, _ = self._of(pair, args, kwargs, again=True)
        return layout, run(layout)

    def _of(
        self,
        pair: ModelAndGuide,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        again: bool = False,
    ) -> tuple[Layout, bool]:
        """Return the layout of a pair, and whether it was found just now."""
        pair = with_programs(pair, unweighted(pair.model), unweighted(pair.guide))
        programs = pair.model, pair.guide
        owners = [getattr(program, "__self__", program) for program in programs]
        functions = [getattr(program, "__func__", None) for program in programs]
        kinds = tuple((name, _kind(value)) for name, value in (*enumerate(args), *kwargs.items()))
        key = (*map(id, owners), *functions, kinds, pair.data_plate)
        references, layout = self._known.get(key, ([], None))
        # Another object may get the id of one that is gone.
        if (
            layout is not None
            and not again
            and all(r() is o for r, o in zip(references, owners, strict=True))
        ):
            return layout, False
        layout = _layout(pair, args, kwargs, self.importance, self.particles)
        self._forget_the_dead()
        try:
            self._known[key] = [weakref.ref(owner) for owner in owners], layout
        except TypeError:  # an owner with __slots__, which has no weak reference
            self._known.pop(key, None)
        return layout, True

    def _forget_the_dead(self) -> None:
        alive = {key: kept for key, kept in self._known.items() if all(r() is not None for r in kept[0])}
        self._known = alive if len(alive) < 8 else {}  # for programs that are made anew for each call


def _kind(value: Any) -> Any:
    """Return what a program may base its plates on, without the values of a tensor."""
    if isinstance(value, Tensor):
        return value.dim()
    return value if isinstance(value, bool | str | None) else type(value)


def _layout(
    pair: ModelAndGuide,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    importance: bool,
    particles: bool,
) -> Layout:
    arguments = arguments_of(args, kwargs)
    of = Structure(pair, arguments.args, arguments.kwargs)
    model_trace, guide_trace = of.traces
    assert guide_trace is not None
    _check_marked(model_trace, guide_trace)
    missing = any(name not in guide_trace.nodes for name in latent_sites(model_trace))
    alone = model_latents(of) if missing else ModelLatents()
    marked = [n for n in latent_sites(guide_trace) if is_marked_for_enumeration(guide_trace.nodes[n])]
    if marked:
        check_gradient_flows(guide_trace)
    _check_plates_of_dependents(of, {*marked, *alone.summed_out})
    found = Layout(_depth(model_trace, guide_trace), alone)
    if importance:
        outside = [name for name in of.in_scope("global") if of[name].role != "deterministic"]
        sites = accounting(of)
        found = found._replace(
            data=_data(of),
            outside=tuple(name for name in outside if name not in alone.left_out | {*sites.parameters}),
            sites=sites,
            known=_known(model_trace, guide_trace, alone),
        )
    if particles or marked or alone.summed_out:
        found = _with_ways(pair, of, found._replace(data=_data(of)), marked, particles)
    return found


def arguments_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
    """Return the arguments of a call, keyword arguments that are tensors first: they may be the data."""
    return Arguments(args, dict(sorted(kwargs.items(), key=lambda item: not isinstance(item[1], Tensor))))


def _data(of: Structure) -> tuple[str, int] | None:
    plate = of.data_plate
    return None if plate is None or plate.dim is None else (plate.name, plate.dim)


def _with_ways(
    pair: ModelAndGuide, of: Structure, found: Layout, marked: Sequence[str], particles: bool
) -> Layout:
    """Find the ways to run copies, which the pair's networks decide on."""
    model_trace, guide_trace = of.traces
    assert guide_trace is not None
    summed = (*marked, *found.alone.summed_out)
    often = [name for name in marked if guide_trace.nodes[name]["infer"].get("num_samples") is not None]
    several = len(summed) > 1 or bool(often) or any(of[name].scope != "local" for name in summed)
    if several:
        pretended = found._replace(alone=ModelLatents())  # drawn classes show whether leading will be right
    else:
        trace = guide_trace if marked else model_trace
        sizes = [len(trace.nodes[name]["fn"].enumerate_support(expand=False)) for name in summed]
        found = found._replace(enumerated=tuple(marked), values=sizes[0] if sizes else 1)
        pretended = found
    local = not any(of[name].role != "deterministic" for name in of.in_scope("global"))
    taken = {plate.size for plate in of.plates.values()} | {found.values}
    guide, model = pretended.of_guide(1), pretended.of_model(1)
    if several and not (particles or often):
        kind = Copies(None, found.depth, found.data_dim, enumerated=tuple(marked), several=True)
        in_model = kind._replace(enumerated=tuple(found.alone.summed_out), first=False, draws=False)
        right = takes_enumerated_values(pair, of.arguments, kind, in_model)
        ways = LEADING if right else Ways("single", "single")
    else:
        rows = found.data is not None and local and not several
        ways = ways_of(pair, of.arguments, guide, model, rows, taken)
    if several and ways != LEADING:
        raise InputError(
            f"the sites {', '.join(map(repr, summed))} are enumerated together, nested, or outside of the "
            "data's plate, and the pair's networks do not take leading dimensions (`(C, B, ...)` in place "
            "of `(B, ...)`), so the sites cannot be summed out: use networks that act on the last "
            "dimensions only, or draw the sites, without infer={'enumerate': 'parallel'}."
        )
    independent: set[str] = set()
    if ways != LEADING and found.alone.summed_out:
        (name,) = found.alone.summed_out
        independent = set(model_trace.nodes) - _dependents(of, name) - {name}
    return found._replace(ways=ways, has_copies=True, independent=frozenset(independent))


def _check_marked(model_trace: Trace, guide_trace: Trace) -> None:
    for name in latent_sites(guide_trace):
        if name not in model_trace.nodes and not guide_trace.nodes[name]["infer"].get("is_auxiliary"):
            raise InputError(
                f"the guide samples '{name}', which the model does not have: rename the site, add it to "
                "the model, or mark it with infer={'is_auxiliary': True} if only the guide needs it."
            )


def _known(model_trace: Trace, guide_trace: Trace, alone: ModelLatents) -> frozenset[tuple[str, bool]]:
    names = {n for trace in (model_trace, guide_trace) for n in trace.nodes if is_sample(trace.nodes[n])}
    marked = {n for n in latent_sites(guide_trace) if is_marked_for_enumeration(guide_trace.nodes[n])}
    return frozenset((name, name in marked) for name in names - alone.left_out)


def _check_plates_of_dependents(of: Structure, enumerated: Collection[str]) -> None:
    """Refuse a site that depends on an enumerated one without being under its plates.

    An enumerated site has no values for the members of its plates, which the other site could sum over.
    """
    plates = {
        name: {frame.name for frame in site["cond_indep_stack"] if frame.vectorized}
        for trace in of.traces
        for name, site in (trace.nodes.items() if trace is not None else ())
        if is_sample(site) and role_of(site) != "deterministic"
    }
    for name in enumerated:
        outside = {other for other, of_other in plates.items() if not plates[name] <= of_other}
        if outside and (dependent := sorted(outside & _dependents(of, name))):
            raise InputError(
                f"site '{dependent[0]}' depends on the enumerated site '{name}' but is not under its "
                f"plates ({', '.join(sorted(plates[name]))}), so the values of '{name}' cannot be summed "
                f"over for each member: move '{dependent[0]}' into the plates, or draw '{name}', without "
                "infer={'enumerate': 'parallel'}."
            )


def _dependents(of: Structure, name: str) -> set[str]:
    """Return the sites that depend on a site. An observed value depends on nothing."""
    model, guide = of.traces
    latents = {*latent_sites(model), *(latent_sites(guide) if guide is not None else ())}
    found: set[str] = set()
    stack, edges = [name], of.generative_edges | of.inference_edges
    while stack:
        end = stack.pop()
        new = {to for come, to in edges if come == end} - found
        found |= new
        stack += new & latents
    return found


def _depth(*traces: Trace) -> int:
    """Return the number of dimensions that the plates of traces take, particles aside; at least 1."""
    dims = (
        -frame.dim
        for trace in traces
        for site in trace.nodes.values()
        if site["type"] == "sample"
        for frame in site["cond_indep_stack"]
        if frame.vectorized and frame.name != PARTICLES
    )
    return max(dims, default=1)
