"""The layout of a pair's dimensions, found once for each pair and kind of call, and runs in this layout.

From the right, the dimensions are those of the plates, then that of the particles, then those of the
enumerated sites. This module alone runs programs for objectives. All other modules read traces.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import pyro
from pyro import poutine
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.objectives.model_latents import ModelLatents, model_latents, with_model_latents
from pyrovae.objectives.weights import unweighted
from pyrovae.programs.accounting import Accounting, accounting
from pyrovae.programs.copies import PARTICLES
from pyrovae.programs.log_weights import Layout as LayoutOfCopies
from pyrovae.programs.log_weights import layout_for
from pyrovae.programs.pair import ModelAndGuide, Program, with_programs
from pyrovae.programs.reparameterisation import is_marked_for_enumeration
from pyrovae.programs.sites import is_sample, latent_sites, role_of
from pyrovae.programs.structure import Structure
from pyrovae.programs.ways import LEADING


class Layout(NamedTuple):
    """The dimensions of a pair's log densities, counted from the right.

    Attributes:
        depth: the number of dimensions that the plates take, at least 1.
        alone: the treatment of the latents that only the model has.
        data: the name and the dimension of the data's plate, for importance weights; None if there is none.
        outside: the names of the sites outside of the data's plate, for importance weights.
        sites: the part of each site in importance weights.
        known: the sites of both programs, and whether each is enumerated, for importance weights.
        copies: the ways to run particles and enumerated values; None if they run in leading dimensions.
    """

    depth: int
    alone: ModelLatents
    data: tuple[str, int] | None = None
    outside: tuple[str, ...] = ()
    sites: Accounting | None = None
    known: frozenset[tuple[str, bool]] = frozenset()
    copies: LayoutOfCopies | None = None

    @property
    def data_dim(self) -> int:
        """The dimension of the data's plate; -1 if there is none."""
        return -1 if self.data is None else self.data[1]

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
        particles: whether the objective runs several particles at once.
    """

    def __init__(self, importance: bool = False, particles: bool = False) -> None:
        self.importance, self.particles = importance, particles
        self._known: dict[Any, tuple[list[weakref.ref[Any]], Layout]] = {}

    def __reduce__(self) -> tuple[type[Layouts], tuple[bool, bool]]:
        return Layouts, (self.importance, self.particles)  # a copy of an objective finds them itself

    def find(self, pair: ModelAndGuide, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Find the layout of a pair, unless it is known."""
        self._of(pair, args, kwargs)

    def forget(self) -> None:
        """Forget all layouts, so that they are found again at the present parameters."""
        self._known = {}

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
    # The structure takes the first argument for the data.
    kwargs = dict(sorted(kwargs.items(), key=lambda item: not isinstance(item[1], Tensor)))
    of = Structure(pair, args, kwargs)
    model_trace, guide_trace = of.traces
    assert guide_trace is not None
    for name in latent_sites(guide_trace):
        if name not in model_trace.nodes and not guide_trace.nodes[name]["infer"].get("is_auxiliary"):
            raise InputError(
                f"the guide samples '{name}', which the model does not have: rename the site, add it to "
                "the model, or mark it with infer={'is_auxiliary': True} if only the guide needs it."
            )
    missing = any(name not in guide_trace.nodes for name in latent_sites(model_trace))
    depth, alone = _depth(model_trace, guide_trace), model_latents(of) if missing else ModelLatents()
    marked = [n for n in latent_sites(guide_trace) if is_marked_for_enumeration(guide_trace.nodes[n])]
    _check_plates_of_dependents(of, {*marked, *alone.summed_out})
    in_full = [name for name in marked if guide_trace.nodes[name]["infer"].get("num_samples") is None]
    enumerated = Accounting((), (), (*in_full, *alone.summed_out), tuple(alone.summed_out), (), ())
    if not importance:
        wanted = particles or enumerated.summed_out
        copies = _copies(pair, of, enumerated, particles) if wanted else None
        return Layout(depth, alone, copies=copies)
    plate = of.data_plate
    outside = [name for name in of.in_scope("global") if of[name].role != "deterministic"]
    return Layout(
        depth,
        alone,
        None if plate is None or plate.dim is None else (plate.name, plate.dim),
        tuple(name for name in outside if name not in alone.left_out),
        accounting(of),
        _known(model_trace, guide_trace, alone),
        _copies(pair, of, enumerated, particles=True) if plate is not None else None,
    )


def _copies(
    pair: ModelAndGuide, of: Structure, enumerated: Accounting, particles: bool
) -> LayoutOfCopies | None:
    """Return the layout of copies that are not run in leading dimensions; None if they are."""
    found = layout_for(pair, of, enumerated)
    if found.several and found.ways != LEADING and particles:
        raise InputError(
            f"the sites {', '.join(map(repr, enumerated.summed_out))} are enumerated, and not just one "
            "site directly under the data's plate, but the programs' networks do not take a leading "
            "dimension of particles: use networks that act on the last dimensions only, or the ELBO with "
            "one draw."
        )
    return None if found.several or found.ways == LEADING else found


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


def laid_out(
    model: Program, guide: Program, layout: Layout, particles: int | None
) -> tuple[Program, Program]:
    """Return model and guide, which run for all particles and all values of enumerated sites side by side.

    Args:
        model: the model, to be run after the guide and replayed on its trace.
        guide: the guide.
        layout: the dimensions.
        particles: the number of particles; None if there is one, without a dimension.
    """
    model = under_particles(with_model_latents(model, layout.alone), layout, particles)
    guide = under_particles(guide, layout, particles)
    first = -1 - layout.depth - (particles is not None)
    # The model's values get dimensions after (left of) the guide's.
    return EnumMessenger()(model), EnumMessenger(first_available_dim=first)(guide)


def under_particles(program: Program, layout: Layout, particles: int | None) -> Program:
    """Return the program under a plate of particles, outside of all of its plates."""
    if particles is None:
        return program
    plated: Program = pyro.plate(PARTICLES, particles, dim=-1 - layout.depth)(program)
    return plated


def replayed(model: Program, guide_trace: Trace, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
    """Run the model on the guide's draws. Return its trace and the guide's, without the sites of plates."""
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    return (
        poutine.util.prune_subsample_sites(model_trace),
        poutine.util.prune_subsample_sites(guide_trace),
    )


def num_data(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Return the number of data in a call, the length of its first tensor.

    Raises:
        InputError: no argument is a tensor with a length.
    """
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim():
            return len(value)
    raise InputError(
        "no argument of the programs is a tensor of data: give the data as a tensor, (N, ...)."
    )
