"""The structure of a pair, found by running its programs.

`structure(pair, x)` finds the role of each site, its plates, its treatment by the guide, its parents, and
its log density for each datum. Each fact is computed when it is first asked for:

    facts                                                cost
    sites, roles, enumerated, ...                        one run of the guide and one of the model
    plates, scopes                                       one more run of each, on fewer data
    generative_edges, inference_edges, parents, ...      two recorded runs of the model and one of the guide
                                                         (`programs.dependence`)
    log_p, log_q                                         the log densities of the first run

The runs have no side effects: modes, Pyro's parameter store and the random stream stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae import small_tables
from pyrovae.errors import InputError
from pyrovae.programs.densities import log_prob_per_datum, trace_log_probs
from pyrovae.programs.dependence import Edge, Recording, edges_of, record, without_effect
from pyrovae.programs.devices import beside
from pyrovae.programs.distributions import name_of
from pyrovae.programs.modes import nothing_moves
from pyrovae.programs.pair import (
    ModelAndGuide,
    Pair,
    Program,
    check_pair_or_program,
    data_plate_of,
    programs_of,
)
from pyrovae.programs.reparameterisation import is_marked_for_enumeration, is_reparameterised
from pyrovae.programs.rows import Arguments, Whole
from pyrovae.programs.running import traced
from pyrovae.programs.sites import (
    Role,
    continuous_latents,
    full_size_of,
    is_sample,
    members_of,
    role_of,
)

Scope = Literal["local", "nested", "global"]


@dataclass(frozen=True)
class Plate:
    """A plate of the programs.

    Attributes:
        name: its name.
        size: the number of its members that take part in the run. For a plate without a size it is the
            number of members of the distributions in it.
        full_size: the number of all its members; more than `size` if the program subsamples.
        dim: its dimension, counted from the right, -1, -2, ...; None for a plate that is iterated over.
        is_data: whether it is the plate over the data.
    """

    name: str
    size: int
    full_size: int
    dim: int | None
    is_data: bool


@dataclass(frozen=True)
class Site:
    """A sample site of the programs.

    Attributes:
        name: its name.
        program: "model", or "guide" for a site that only the guide has.
        role: "latent", "observed", "factor" or "deterministic".
        distribution: the class name of its distribution in that program, without wrappers.
        plates: the names of its plates, outermost first.
        scope: "local" under the data's plate only, "nested" under the data's plate and further ones,
            "global" outside of the data's plate.
        enumerated: whether the guide (or a model without guide) marks it for enumeration.
        reparameterised: whether its draws let a gradient pass to the guide's parameters; None if it is not
            drawn.
    """

    name: str
    program: Literal["model", "guide"]
    role: Role
    distribution: str
    plates: tuple[str, ...]
    scope: Scope
    enumerated: bool
    reparameterised: bool | None


class Traces(NamedTuple):
    """Pruned traces of the guide and of the model replayed on it; None for a model without a guide."""

    model: Trace
    guide: Trace | None


def structure(
    pair: ModelAndGuide | Program, *args: Any, given: Mapping[str, Any] | None = None, **kwargs: Any
) -> Structure:
    """Find the structure of a pair, or of a model without a guide, when called with these arguments.

    Args:
        pair: a model and a guide, or a model alone.
        args: the arguments of both programs, the data `(N, *x_shape)` first.
        given: further arguments of both programs by name, such as `{"c": c}`. Tensors whose first size is
            N are cut with the data, but for `programs.Whole(tensor)`.
        kwargs: their keyword arguments, which may be written instead of `given`.

    Returns:
        The facts, each computed when it is first asked for. `print` shows a table of them.

    Raises:
        InputError: the first argument is neither a pair nor a program, or a second program follows it;
            later, when a fact is asked for, `Pair.data_plate` names a plate that the programs do not have.

    Example:
        >>> import torch
        >>> from pyrovae.models import VAE
        >>> from pyrovae.likelihoods import Bernoulli
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import DiagonalNormal
        >>> from pyrovae.priors import StandardNormal
        >>> from pyrovae.programs.structure import structure
        >>> vae = VAE(StandardNormal(2), Bernoulli(MLP(2, (4,))), DiagonalNormal(MLP((4,), 6), 2))
        >>> found = structure(vae, torch.zeros(3, 4))
        >>> found.latents, found.observed, found.data_plate.name
        (('z',), ('x',), 'data')
    """
    check_pair_or_program("structure", pair, args)
    args, kwargs, given = beside(pair, (args, kwargs, dict(given or {})))
    named = dict(given)
    if whole := {name: named.pop(name).value for name in [*named] if isinstance(named[name], Whole)}:
        model, guide = programs_of(pair)
        model = partial(model, **whole)
        pair = model if guide is None else Pair(model, partial(guide, **whole), data_plate_of(pair))
    return Structure(pair, args, {**kwargs, **named})


class Structure:
    """The facts about a pair, each computed when it is first asked for. See `structure`.

    Args:
        pair: a model and a guide, or a model alone.
        args: the arguments of both programs, the data first.
        kwargs: their keyword arguments.
        traces: the traces of an earlier run. None means that the programs are run when a fact needs it.
        data_plate: the name of the plate over the data. None means that of the pair, if it has one.
    """

    def __init__(
        self,
        pair: ModelAndGuide | Program,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
        traces: Traces | None = None,
        data_plate: str | None = None,
    ) -> None:
        self._pair = pair
        self.model, self.guide = programs_of(pair)
        self.args, self.kwargs = args, dict(kwargs or {})
        self._named_data_plate = data_plate or data_plate_of(pair)
        if traces is not None:
            self.traces = traces

    # The run

    @cached_property
    def traces(self) -> Traces:
        """The trace of the model, replayed on the guide's draws, and the trace of the guide."""
        with nothing_moves(*self._programs), poutine.block():
            if self.guide is None:
                return Traces(traced(self.model, *self.args, **self.kwargs), None)
            guide = traced(self.guide, *self.args, **self.kwargs)
            model = traced(poutine.replay(self.model, trace=guide), *self.args, **self.kwargs)
        return Traces(model, guide)

    @property
    def _programs(self) -> tuple[Program, ...]:
        return (self.model,) if self.guide is None else (self.model, self.guide)

    @property
    def _by_program(self) -> dict[Literal["model", "guide"], Trace]:
        model, guide = self.traces
        return {"model": model} if guide is None else {"model": model, "guide": guide}

    @property
    def arguments(self) -> Arguments:
        """The arguments of the run."""
        return Arguments(self.args, self.kwargs)

    @property
    def num_data(self) -> int | None:
        """N, the length of the first argument; None if it has no length."""
        return self.arguments.num_data

    # Plates

    @cached_property
    def plates(self) -> dict[str, Plate]:
        """The plates by name, outermost first. A plate of both programs is described as in the model.

        Raises:
            InputError: the pair names a data plate that the programs do not have; or it names none, and
                plates at different dimensions could be the data's.
        """
        return {
            name: Plate(name, size, full_size_of(frame, size), frame.dim, name in self._data_plates)
            for name, (frame, size) in self._frames.items()
        }

    @cached_property
    def _frames(self) -> dict[str, tuple[Any, int]]:
        """Pyro's frame of each plate by the plate's name, with the number of members in the run."""
        frames: dict[str, tuple[Any, int]] = {}
        for trace in self._by_program.values():
            for site in trace.nodes.values():
                if is_sample(site):
                    for frame in site["cond_indep_stack"]:
                        frames.setdefault(frame.name, (frame, members_of(frame, site)))
        return frames

    @cached_property
    def _data_plates(self) -> frozenset[str]:
        """The names of the plates over the data."""
        if (named := self._named_data_plate) is not None:
            if named not in self._frames:
                raise InputError(
                    f"the pair's data_plate is '{named}', but the programs have "
                    f"{', '.join(map(repr, self._frames)) or 'no plate'}: name the plate over the data."
                )
            return frozenset({named})
        as_long = {
            name: frame
            for name, (frame, size) in self._frames.items()
            if self.num_data is not None
            and frame.dim is not None
            and (size == self.num_data or frame.full_size == self.num_data)
        }
        found = {name: frame for name, frame in as_long.items() if name in self._follow_the_data(as_long)}
        if len({frame.dim for frame in found.values()}) > 1:
            names = " and ".join(f"'{name}'" for name in found)
            raise InputError(
                f"the plates {names} both have a member for each of {self.num_data} data, at different "
                "dimensions: say which one is over the data by "
                f'Pair(model, guide, data_plate="{next(iter(found))}").'
            )
        return frozenset(found)

    def _follow_the_data(self, names: Collection[str]) -> Collection[str]:
        """Return which of these plates have as many members as there are data on another number of data.

        If the programs do not run on another number of data, all of them are returned.
        """
        if not names or not self.num_data:
            return names
        other = self.arguments.first(self.num_data - 1 if self.num_data > 1 else 2)
        try:
            frames = Structure(self._pair, other.args, other.kwargs)._frames
        except Exception:  # programs for one number of data raise errors of any type
            return names
        return [
            name
            for name in names
            if name in frames and other.num_data in (frames[name][1], frames[name][0].full_size)
        ]

    @property
    def data_plate(self) -> Plate | None:
        """The plate over the data, or None if there is none.

        It is the plate that `Pair.data_plate` names. Without a name it is the plate that has as many
        members as there are data, also on another number of data. If the programs subsample, the plate's
        full size or the size of the subsample may be that number. Programs may give this plate several
        names at one dimension; then it is the first of them.
        """
        return next((plate for plate in self.plates.values() if plate.is_data), None)

    def data_axis(self, name: str, program: Literal["model", "guide"] = "model") -> int | None:
        """Return the axis of the data in the values of a site, counted from the right: -1, -2, ...

        Args:
            name: the name of the site.
            program: the program whose site it is.

        Returns:
            The axis; None if the site is not under the data's plate, or if this plate is iterated over.
        """
        node = self._by_program[program].nodes[name]
        dims = [frame.dim for frame in node["cond_indep_stack"] if frame.name in self._data_plates]
        return None if not dims or dims[0] is None else int(dims[0]) - node["fn"].event_dim

    # Sites

    @cached_property
    def sites(self) -> dict[str, Site]:
        """The sample sites by name: the model's in order, then those that only the guide has."""
        found: dict[str, Site] = {}
        for program, trace in self._by_program.items():
            for name, node in trace.nodes.items():
                if is_sample(node) and name not in found:
                    found[name] = self._site(name, program, node)
        return found

    def _site(self, name: str, program: Literal["model", "guide"], node: Mapping[str, Any]) -> Site:
        plates = tuple(frame.name for frame in node["cond_indep_stack"])
        under_data = [self.plates[plate].is_data for plate in plates]
        role, drawing = role_of(node), (self.traces.guide or self.traces.model).nodes.get(name, node)
        enumerated = role == "latent" and is_marked_for_enumeration(drawing)
        return Site(
            name,
            program,
            role,
            name_of(node["fn"]),
            plates,
            "global" if not any(under_data) else "local" if all(under_data) else "nested",
            enumerated,
            is_reparameterised(drawing) if role == "latent" and not enumerated else None,
        )

    def __getitem__(self, name: str) -> Site:
        return self.sites[name]

    def _names(self, role: Role, program: str = "model") -> tuple[str, ...]:
        return tuple(
            name for name, site in self.sites.items() if site.role == role and site.program == program
        )

    @property
    def latents(self) -> tuple[str, ...]:
        """The model's latents without predictions, in order."""
        return tuple(name for name in self._names("latent") if name not in self.predicted)

    @property
    def observed(self) -> tuple[str, ...]:
        """The model's sites with a given value, in order; factors are not among them."""
        return self._names("observed")

    @property
    def factors(self) -> tuple[str, ...]:
        """The model's factors, in order."""
        return self._names("factor")

    @property
    def deterministic(self) -> tuple[str, ...]:
        """The model's deterministic sites, in order."""
        return self._names("deterministic")

    @property
    def model_only(self) -> tuple[str, ...]:
        """The latents that the guide lacks, predictions too, in order; none for a model without a guide."""
        guide = self.traces.guide
        return tuple(n for n in self._names("latent") if guide is not None and n not in guide.nodes)

    @cached_property
    def predicted(self) -> tuple[str, ...]:
        """The latents that the guide lacks and on which no other site depends, in order.

        Such is the y of `pyro.sample("y", ..., obs=y)` in a call without y. It is a prediction.
        """
        return tuple(without_effect(self.model_only, self.generative_edges) if self.model_only else ())

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """The latents that only the guide has, in order."""
        return self._names("latent", "guide")

    @property
    def enumerated(self) -> tuple[str, ...]:
        """The latents that are marked for enumeration."""
        return tuple(name for name, site in self.sites.items() if site.enumerated)

    @property
    def drawn(self) -> tuple[str, ...]:
        """The latents that are drawn, including those that only the guide has."""
        return tuple(name for name, site in self.sites.items() if site.reparameterised is not None)

    @property
    def unreparameterised(self) -> tuple[str, ...]:
        """The latents that are drawn and let no gradient pass."""
        return tuple(name for name, site in self.sites.items() if site.reparameterised is False)

    @property
    def continuous(self) -> tuple[str, ...]:
        """The model's latents with floating-point values that are not discrete, without predictions."""
        return tuple(name for name in continuous_latents(self.traces.model) if name in self.latents)

    def in_scope(self, scope: Scope) -> tuple[str, ...]:
        """Return the sites of one scope, in order: "local", "nested" or "global" (see `Site.scope`)."""
        return tuple(name for name, site in self.sites.items() if site.scope == scope)

    # Dependence

    @cached_property
    def _recording(self) -> Recording:
        return record(self._programs, self.args, self.kwargs)

    @cached_property
    def generative_edges(self) -> frozenset[Edge]:
        """The pairs (parent, child) of the model's sites: the parent enters the child's distribution.

        An argument counts as the site that observes it.
        """
        return edges_of(self._recording.runs[0], self._recording.stands_for)

    @cached_property
    def inference_edges(self) -> frozenset[Edge]:
        """The pairs (parent, child) of the guide. An argument counts as the site that observes it."""
        runs, stands_for = self._recording.runs, self._recording.stands_for
        return edges_of(runs[1], stands_for) if len(runs) > 1 else frozenset()

    def parents(self, name: str) -> set[str]:
        """Return the sites from which the model computes a site's distribution."""
        return {parent for parent, child in self.generative_edges if child == name}

    def children(self, name: str) -> set[str]:
        """Return the sites whose distribution or given value the model computes from a site."""
        return {child for parent, child in self.generative_edges if parent == name}

    def descendants(self, name: str) -> set[str]:
        """Return the sites of the model that depend on a site, directly or through others."""
        return _reach(name, self.generative_edges, frozenset())

    def ancestors(self, name: str, given: Iterable[str] = ()) -> set[str]:
        """Return the model's sites that a site depends on, directly or through sites that are not given."""
        reversed_edges = {(child, parent) for parent, child in self.generative_edges}
        return _reach(name, reversed_edges, frozenset(given))

    # Densities

    @cached_property
    def log_p(self) -> dict[str, Tensor]:
        """The log density of each of the model's sites at the run's values, in nats, without scales.

        It is `(N,)` for a site under the data's plate, summed over further plates; `()` for a global site.
        """
        return self._log_densities(self.traces.model)

    @cached_property
    def log_q(self) -> dict[str, Tensor]:
        """The log density of each of the guide's sites, in the form of `log_p`; empty without a guide."""
        return {} if self.traces.guide is None else self._log_densities(self.traces.guide)

    def _log_densities(self, trace: Trace) -> dict[str, Tensor]:
        densities = {}
        for name, value in trace_log_probs(trace).items():
            frames = trace.nodes[name]["cond_indep_stack"]
            dims = [frame.dim for frame in frames if frame.name in self._data_plates]
            densities[name] = log_prob_per_datum(value, dims[0] if dims else None)
        return densities

    # The table

    def __str__(self) -> str:
        heading = ("site", "role", "distribution", "plates", "scope", "treatment")
        rows = []
        for site in self.sites.values():
            role = f"{site.role} (guide only)" if site.program == "guide" else site.role
            plates = ", ".join(site.plates) or "-"
            rows.append((site.name, role, site.distribution, plates, site.scope, self._treatment(site)))
        lines = small_tables.text(heading, rows, words=range(len(heading)))
        return "\n".join([*map(_plate_line, self.plates.values()), *lines])

    def _treatment(self, site: Site) -> str:
        if site.name in self.predicted:
            return "predicted"
        if site.enumerated:
            return "enumerated"
        if site.reparameterised is None:
            return "-"
        return "drawn, reparameterised" if site.reparameterised else "drawn, not reparameterised"


def _reach(start: str, edges: Iterable[Edge], shut: frozenset[str]) -> set[str]:
    found: set[str] = set()
    stack = [start]
    while stack:
        end = stack.pop()
        new = {to for came, to in edges if came == end} - found - shut
        found |= new
        stack += new
    return found


def _plate_line(plate: Plate) -> str:
    size = str(plate.size) if plate.size == plate.full_size else f"{plate.size} of {plate.full_size}"
    where = "iterated over" if plate.dim is None else f"dimension {plate.dim}"
    return f"plate {plate.name}: {size} members, {where}{', the data' if plate.is_data else ''}"
