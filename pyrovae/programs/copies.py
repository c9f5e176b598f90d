"""Run K copies of a program on the same data, for each value of an enumerated site.

There are four ways, the fastest first. Every way returns a trace in the layout of the first one:

    leading    a plate of particles, whose dimension stands left of all plates: `(*values, K, *plates)`
    rows       the data are repeated, one copy after the other, so that networks see `(R * B, ...)`
    mapped     the program runs once for each value, and `torch.func.vmap` hides the particles' dimension
    single     the program runs on the data as they are, once for each copy

`single` is what the program means. The other ways give the same densities only if its networks treat the
leading dimensions, or the rows, independently, and if `vmap` knows its operations; `ways.py` finds out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.score_parts import ScoreParts
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.programs.mapping import mapped
from pyrovae.programs.pair import Program
from pyrovae.programs.rows import Arguments
from pyrovae.programs.sites import is_sample
from pyrovae.programs.values import changed, draw_of, parts_of

PARTICLES = "num_particles_vectorized"  # the name of the plate of particles, as in Pyro's objectives

Way = Literal["leading", "rows", "mapped", "single"]

Extra = Callable[[Mapping[str, Any]], Tensor | None]
"""A function of a site, in the run, that returns a further tensor `(*batch_shape, *event_shape)` of it.

It returns None for a site that it is not for.
"""


class Copies(NamedTuple):
    """The copies of a program in one run.

    Attributes:
        particles: K, the number of copies for each enumerated value. None means a single copy without a
            dimension of its own.
        depth: the number of dimensions that the program's plates take.
        data_dim: the dimension of the data's plate, counted from the right.
        data_plate: the name of that plate; None if there is none.
        values: C, the number of values of the enumerated site; 1 if nothing is enumerated.
        enumerated: the names of the sites that this program enumerates. Ways other than "leading" take one
            at most.
        several: whether the guide's and the model's enumerated sites are several. Each of them then has a
            dimension of its own, and a Markov chain uses its dimensions again and again.
        first: whether this program is the first of the two, so that its enumerated dimensions begin next to
            the particles'. The other program's begin where they end.
        draws: whether the program is a guide, whose draws may need the score function.
    """

    particles: int | None
    depth: int
    data_dim: int
    data_plate: str | None = None
    values: int = 1
    enumerated: tuple[str, ...] = ()
    several: bool = False
    first: bool = True
    draws: bool = True

    @property
    def plate(self) -> AbstractContextManager[Any]:
        """The plate of particles, outside of all plates of the program."""
        if self.particles is None:
            return nullcontext()
        plate: AbstractContextManager[Any] = pyro.plate(PARTICLES, self.particles, dim=-1 - self.depth)
        return plate

    @property
    def frame(self) -> CondIndepStackFrame:
        """The frame of the plate of particles."""
        return CondIndepStackFrame(PARTICLES, -1 - self.depth, self.number, 0)

    @property
    def number(self) -> int:
        """The number of copies for each enumerated value."""
        return 1 if self.particles is None else self.particles


def run_copies(
    way: Way,
    program: Program,
    arguments: Arguments,
    copies: Copies,
    given: Trace | None = None,
    extras: Mapping[str, Extra] | None = None,
) -> Trace:
    """Run copies of a program.

    Args:
        way: the way to run them.
        program: the program.
        arguments: its arguments.
        copies: the number and the kind of the copies.
        given: a trace in the layout of leading dimensions, whose latents the program takes over.
        extras: functions of a site whose results are kept in the site, by the keys of the results.

    Returns:
        A trace with its log densities, in the layout of leading dimensions. Its sites have other shapes
        than their distributions (`fn`) unless the way is "leading".
    """
    run = {"leading": _leading, "rows": _rows, "mapped": _mapped, "single": _single}[way]
    return run(program, arguments, copies, given, extras or {})


def given_values(values: Mapping[str, Tensor], event_dims: Mapping[str, int]) -> Trace:
    """Return a trace with values of latents in the leading layout, for the argument `given`."""
    trace = Trace()
    for name, value in values.items():
        fn = dist.Delta(value, event_dim=event_dims[name])
        trace.add_node(name, type="sample", name=name, fn=fn, value=value, is_observed=False, infer={})
    return trace


def _leading(
    program: Program,
    arguments: Arguments,
    copies: Copies,
    given: Trace | None,
    extras: Mapping[str, Extra],
) -> Trace:
    program = enumerating(program, copies)
    if given is not None:
        program = poutine.replay(program, trace=given)
    with copies.plate:
        trace = poutine.trace(program).get_trace(*arguments.args, **arguments.kwargs)
    _score(trace, copies, extras)
    return trace


def enumerating(program: Program, copies: Copies) -> Program:
    """Return the program, run for all values of its enumerated sites, left of the particles' plate."""
    if not (copies.enumerated or copies.several):
        return program
    begin = -1 - copies.depth - (copies.particles is not None) if copies.first else None
    handled: Program = poutine.enum(_Mark(copies.enumerated)(program), first_available_dim=begin)
    return handled


class _Mark(Messenger):
    """Marks the named sites for enumeration in parallel, and no others."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:
        summed_out = msg["name"] in self.names
        msg["infer"] = {**msg["infer"], "enumerate": "parallel" if summed_out else None}
        msg["infer"].pop("num_samples", None)
        if summed_out:
            lift_mask(msg)


def lift_mask(msg: Any) -> None:
    """Turn the mask of a site's distribution into the mask of the site, which leaves the density whole."""
    while isinstance(msg["fn"], dist.MaskedDistribution):
        mask = msg["fn"]._mask
        msg["mask"] = mask if msg["mask"] is None else msg["mask"] & mask
        msg["fn"] = msg["fn"].base_dist


def _rows(
    program: Program,
    arguments: Arguments,
    copies: Copies,
    given: Trace | None,
    extras: Mapping[str, Extra],
) -> Trace:
    repeated = arguments.repeated(copies.values * copies.number)
    num_data = arguments.num_data or 1
    latents = [] if given is None else _latents(given)
    values = {name: _to_rows(site, copies, num_data) for name, site in latents}
    blocks = torch.arange(copies.values).repeat_interleave(copies.number)
    with _Assign(values, copies, blocks):
        trace = poutine.trace(program).get_trace(*repeated.args, **repeated.kwargs)
    trace = poutine.util.prune_subsample_sites(
        trace
    )  # their plates have more members than those of one copy
    _score(trace, copies, extras)
    for name, site in trace.nodes.items():
        if is_sample(site):
            trace.nodes[name] = _changed(site, copies, extras)
    return trace


def _mapped(
    program: Program,
    arguments: Arguments,
    copies: Copies,
    given: Trace | None,
    extras: Mapping[str, Extra],
) -> Trace:
    if copies.number == 1:
        return _single(program, arguments, copies, given, extras)
    latents = [] if given is None else _latents(given)
    runs: list[Trace] = []
    for value in range(copies.values):
        values = {name: _of_value(site, copies, value) for name, site in latents}
        values |= _values_outside(runs[0], copies) if runs else {}
        runs.append(_particles(program, arguments, copies, value, values, extras))
    return joined(runs, copies, extras)


def _particles(
    program: Program,
    arguments: Arguments,
    copies: Copies,
    value: int,
    values: Mapping[str, Tensor],
    extras: Mapping[str, Extra],
) -> Trace:
    """Run all particles of one enumerated value at the same time.

    Returns:
        The trace of one particle. The tensors of its sites have a first dimension for the particles.
    """
    trace = Trace()

    def one(values: Mapping[str, tuple[Tensor, ...]]) -> dict[str, dict[str, tuple[Tensor, ...]]]:
        nonlocal trace
        draws = {name: draw_of(*parts) for name, parts in values.items()}
        trace = _run_one(program, arguments, copies, value, draws, extras)
        return {name: _tensors_of(site, extras) for name, site in trace.nodes.items() if is_sample(site)}

    def of_particles(part: Tensor) -> Tensor:
        return part.expand(copies.number, *part.shape[1:])

    inputs = {name: tuple(map(of_particles, parts_of(draws))) for name, draws in values.items()}
    for name, tensors in mapped(one, inputs, copies.number).items():
        site = trace.nodes[name]
        site.update({key: draw_of(*parts) for key, parts in tensors.items()})
        if "score_parts" in site:
            scores = _scores_of(site)
            site["score_parts"] = ScoreParts(*(site.pop(key, part) for key, part in scores.items()))
    return trace


def _tensors_of(site: Mapping[str, Any], extras: Collection[str]) -> dict[str, tuple[Tensor, ...]]:
    """Return the tensors of a site by their keys. A draw comes with the value that it was rounded from."""
    parts = {key: site.get(key) for key in (*_PARTS, "value", *extras)}
    tensors = {k: part for k, part in (_scores_of(site) | parts).items() if isinstance(part, Tensor)}
    return {key: parts_of(part) for key, part in tensors.items()}


def _scores_of(site: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a guide's score function by keys of their own."""
    return {f"score parts {i}": part for i, part in enumerate(site.get("score_parts", ()))}


def _single(
    program: Program,
    arguments: Arguments,
    copies: Copies,
    given: Trace | None,
    extras: Mapping[str, Extra],
) -> Trace:
    first = [run_one(program, arguments, copies, (0, k), given, extras) for k in range(copies.number)]
    runs = list(first)
    for value in range(1, copies.values):
        for k, of_first in enumerate(first):
            runs.append(run_one(program, arguments, copies, (value, k), given, extras, of_first))
    return joined(runs, copies, extras)


def run_one(
    program: Program,
    arguments: Arguments,
    copies: Copies,
    number: tuple[int, int],
    given: Trace | None = None,
    extras: Mapping[str, Extra] | None = None,
    of_first: Trace | None = None,
) -> Trace:
    """Run one copy: the one of an enumerated value and a particle, by their numbers.

    Args:
        program: the program.
        arguments: its arguments.
        copies: the number and the kind of the copies.
        number: the number of the enumerated value, and that of the particle.
        given: as in `run_copies`.
        extras: as in `run_copies`.
        of_first: the run of the same particle for the first value. All values share its draws outside of
            the data's plate.
    """
    value, particle = number
    values = {}
    for name, site in [] if given is None else _latents(given):
        draws = _of_value(site, copies, value)
        values[name] = changed(itemgetter(min(particle, len(draws) - 1)), draws)
    values |= {} if of_first is None else _values_outside(of_first, copies)
    return _run_one(program, arguments, copies, value, values, extras or {})


def _run_one(
    program: Program,
    arguments: Arguments,
    copies: Copies,
    value: int,
    values: Mapping[str, Tensor],
    extras: Mapping[str, Extra],
) -> Trace:
    """Run one copy, with an enumerated value by its number and given values of latents."""
    with _Assign(values, copies, torch.tensor([value])):
        trace = poutine.trace(program).get_trace(*arguments.args, **arguments.kwargs)
    _score(trace, copies, extras)
    return trace


def joined(runs: Sequence[Trace], copies: Copies, extras: Collection[str] = ()) -> Trace:
    """Join the traces of all copies in the leading layout.

    Args:
        runs: the traces, value by value and particle by particle; or one for each value, whose tensors have
            a first dimension for the particles.
        copies: the number and the kind of the copies.
        extras: the keys of further tensors of the sites.
    """
    trace = runs[0]
    for name, site in trace.nodes.items():
        if is_sample(site):
            trace.nodes[name] = _stacked([run.nodes[name] for run in runs], copies, extras)
    return trace


def _values_outside(trace: Trace, copies: Copies) -> dict[str, Tensor]:
    """Return the values of the latents outside of the data's plate, which enumerated values share."""
    return {name: site["value"] for name, site in _latents(trace) if _is_outside(site, copies)}


def _is_outside(site: Mapping[str, Any], copies: Copies) -> bool:
    """Whether a site lies outside of the data's plate. Then it does not depend on an enumerated site."""
    return all(frame.name != copies.data_plate for frame in site["cond_indep_stack"])


def _score(trace: Trace, copies: Copies, extras: Mapping[str, Extra]) -> None:
    if copies.draws:
        trace.compute_score_parts()
    trace.compute_log_prob()
    add_extras(trace, extras)


def add_extras(trace: Trace, extras: Mapping[str, Extra]) -> None:
    """Keep further tensors of the sites of a run in these sites."""
    for site in filter(is_sample, trace.nodes.values()):
        site.update({key: extra(site) for key, extra in extras.items()})


def _latents(trace: Trace) -> list[tuple[str, Any]]:
    return [
        (name, site) for name, site in trace.nodes.items() if is_sample(site) and not site["is_observed"]
    ]


class _Assign(Messenger):
    """Sets latents to given values, and the enumerated site to its values, block by block.

    Args:
        values: the values of latents, with leading ones where a site has fewer plates.
        copies: the kind of the copies.
        blocks: the number of the enumerated value in each copy of the data in this run, `(R,)`.
    """

    def __init__(self, values: Mapping[str, Tensor], copies: Copies, blocks: Tensor) -> None:
        super().__init__()
        self.values, self.copies, self.blocks = values, copies, blocks

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or poutine.util.site_is_subsample(msg):
            return
        name, fn = msg["name"], msg["fn"]
        if name in self.values:
            value, dims = self.values[name], len(fn.batch_shape) + fn.event_dim
            shape = value.shape[max(0, value.dim() - dims) :]
            msg["value"], msg["done"] = changed(lambda tensor: tensor.reshape(shape), value), True
        elif name in self.copies.enumerated:
            lift_mask(msg)
            msg["value"], msg["done"] = self._blocks_of(msg["fn"]), True

    def _blocks_of(self, fn: Any) -> Tensor:
        """Return the enumerated values, each for the rows of its block: `(*batch_shape, *event_shape)`."""
        support = fn.enumerate_support(expand=False)
        event = support.shape[support.dim() - fn.event_dim :]
        support = support.reshape(len(support), *event)
        dim = self.copies.data_dim
        rows = fn.batch_shape[dim] // len(self.blocks)
        values = support[self.blocks.to(support.device)].repeat_interleave(rows, 0)
        values = values.reshape(len(values), *[1] * (-dim - 1), *event)
        return values.expand(*fn.batch_shape, *event)


def _to_rows(site: Mapping[str, Any], copies: Copies, num_data: int) -> Tensor:
    """Turn a value `(*values, K, *plates, *event_shape)` into one of rows: the data's dimension grows."""

    def to_rows(value: Tensor) -> Tensor:
        value = _with_copies(value, site["fn"].event_dim, copies)
        axis = 2 + copies.depth + copies.data_dim
        shape = [copies.values, copies.number, *value.shape[2:]]
        shape[axis] = num_data
        return value.expand(shape).movedim((0, 1), (axis - 2, axis - 1)).flatten(axis - 2, axis)

    return changed(to_rows, site["value"])


def _with_copies(tensor: Tensor, event_dim: int, copies: Copies) -> Tensor:
    """Give a tensor the shape `(C or 1, K or 1, *plates, *event_shape)` by adding dimensions of one."""
    missing = 2 + copies.depth - (tensor.dim() - event_dim)
    return tensor.reshape((*[1] * missing, *tensor.shape))


def _from_rows(tensor: Tensor, event_dim: int, copies: Copies) -> Tensor:
    """Turn a tensor of rows `(*plates, *event_shape)` into `(C, K, *plates, *event_shape)`.

    Without enumerated values it becomes `(K, *plates, *event_shape)`.
    """
    tensor = tensor.reshape((*[1] * (copies.depth - (tensor.dim() - event_dim)), *tensor.shape))
    axis = copies.depth + copies.data_dim
    if tensor.shape[axis] == 1:  # one value for all data
        return tensor.unsqueeze(0)
    tensor = tensor.unflatten(axis, (copies.values, copies.number, -1))
    tensor = tensor.movedim((axis, axis + 1), (0, 1))
    return tensor if copies.values > 1 else tensor.squeeze(0)


def _of_value(site: Mapping[str, Any], copies: Copies, value: int) -> Tensor:
    """Return the values of a site for one enumerated value, `(K or 1, *plates, *event_shape)`."""

    def of_value(values: Tensor) -> Tensor:
        values = _with_copies(values, site["fn"].event_dim, copies)
        return values[min(value, len(values) - 1)]

    return changed(of_value, site["value"])


_PARTS = ("log_prob", "unscaled_log_prob", "mask", "scale")


def _changed(site: Mapping[str, Any], copies: Copies, extras: Collection[str]) -> dict[str, Any]:
    """Return the site of a run of rows in the leading layout."""

    def back(part: Any, event_dim: int = 0) -> Any:
        if not isinstance(part, Tensor):
            return part
        return changed(lambda tensor: _from_rows(tensor, event_dim, copies), part)

    new = dict(site)
    new |= {part: back(site[part]) for part in _PARTS}
    new |= {key: back(site.get(key), site["fn"].event_dim) for key in ("value", *extras)}
    if "score_parts" in site:
        new["score_parts"] = ScoreParts(*map(back, site["score_parts"]))
    return _in_layout(new, copies)


def _stacked(sites: Sequence[Mapping[str, Any]], copies: Copies, extras: Collection[str]) -> dict[str, Any]:
    """Return the site of a run of all copies from the sites of their runs.

    A site outside of the data's plate has no dimension for the enumerated values.
    """
    outside = copies.values > 1 and _is_outside(sites[0], copies)
    each = len(sites) // copies.values  # K sites of single runs, or one of all particles
    sites = sites[:each] if outside else sites
    has_values = copies.values > 1 and not outside
    particles = each == 1 and copies.number > 1

    def stacked(parts: Sequence[Any], event_dim: int = 0) -> Any:
        if not isinstance(parts[0], Tensor):
            return parts[0]

        def padded(*parts: Tensor) -> Tensor:
            depth = copies.depth + event_dim
            runs = parts if particles else [part.unsqueeze(0) for part in parts]
            together = torch.cat(
                [r.reshape((len(r), *[1] * (depth + 1 - r.dim()), *r.shape[1:])) for r in runs]
            )
            return together.unflatten(0, (copies.values, -1)) if has_values else together

        return changed(padded, *parts)

    new = dict(sites[0])
    new |= {part: stacked([site[part] for site in sites]) for part in _PARTS}
    for key in ("value", *extras):
        new[key] = stacked([site.get(key) for site in sites], sites[0]["fn"].event_dim)
    if "score_parts" in new:
        parts = zip(*(site["score_parts"] for site in sites), strict=True)
        new["score_parts"] = ScoreParts(*map(stacked, parts))
    return _in_layout(new, copies)


def _in_layout(site: dict[str, Any], copies: Copies) -> dict[str, Any]:
    """Give a site the frames and the mark of enumeration that it would have in the leading layout."""
    frames = []
    for frame in site["cond_indep_stack"]:
        of_data = frame.dim == copies.data_dim
        size = site["log_prob"].shape[frame.dim] if of_data else frame.size
        frames.append(frame._replace(size=size))
    site["cond_indep_stack"] = (copies.frame, *frames)
    site["is_copied"] = True  # its distribution has other shapes
    if copies.values > 1:
        dim = -2 - copies.depth
        site["infer"] = {**site["infer"], "_dim_to_id": {dim: 0}}
        if site["name"] in copies.enumerated:
            site["infer"]["_enumerate_dim"] = dim
    return site
