"""The sites and arguments that each site of a program depends on.

Every value remembers which sites and arguments it was computed from (`programs.origins`), whatever network
stands in between. This ends at a sample site, so only direct dependence is found.

An argument stands for the observed site that has its value. Parts of one argument may be the values of
different sites, such as the steps of a sequence, and a part may be a condition. So the model runs twice:
once to find the parts, and once to find what depends on each.

Pyro's `get_model_relations` works in a similar way. It is not used here: it knows no arguments, and so no
q(z | x), and it takes the shape of a tensor for its value.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from pyro import poutine
from pyro.distributions import Independent, MaskedDistribution, Unit
from pyro.infer.inspect import site_is_deterministic
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrovae.programs.distributions import base_of, name_of
from pyrovae.programs.modes import nothing_moves
from pyrovae.programs.origins import Label, Origins, unpacked
from pyrovae.programs.pair import Program
from pyrovae.programs.shape_checks import check_inside_plates
from pyrovae.programs.signatures import parameters_of
from pyrovae.programs.sites import full_size_of, members_of
from pyrovae.programs.values import changed

Edge = tuple[str, str]


@dataclass(frozen=True)
class Argument:
    """A part of an argument: its elements are values of the same sites. It never equals a site's name.

    Attributes:
        name: the name of the argument.
        part: the number of the part.
    """

    name: str
    part: int = 0


class RecordedSite(NamedTuple):
    """A sample site in a recorded run.

    Attributes:
        observed: whether its value was given.
        distribution: the class name of its distribution.
        parents: the names of the sites, and the arguments, from which its distribution was computed, and
            those from which its value was computed, unless they stand for the site.
        computed_from: the sites and arguments that its observed value was computed from; empty for a
            latent.
        plates: the size and the full size of each of its plates by name, outermost first.
        factor: whether it is a `pyro.factor`.
    """

    observed: bool
    distribution: str
    parents: frozenset[Any]
    computed_from: frozenset[Any]
    plates: dict[str, tuple[int, int]]
    factor: bool


Run = dict[str, RecordedSite]
"""The sample sites of one recorded run of a program, by name and in order."""


class Recording(NamedTuple):
    """The recorded runs of a model, and of its guide if it has one.

    Attributes:
        runs: the run of each program, the model's first.
        arguments: the argument that each part belongs to, whole.
        stands_for: the names of the model's observed sites that a part of an argument is the value of.
        repeats: the model's observed sites that score the same value as another, with that site's name.
    """

    runs: list[Run]
    arguments: dict[Argument, Tensor]
    stands_for: dict[Argument, list[str]]
    repeats: dict[str, str]


def record(programs: tuple[Program, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Recording:
    """Run the model, and the guide if there is one, and record what each site depends on.

    The runs have no side effects: modes, parameters, buffers and the random stream stay as they are.

    Args:
        programs: the model, or the model and the guide.
        args: their positional arguments.
        kwargs: their keyword arguments.
    """
    names = max((positional_names(program, len(args)) for program in programs), key=len)
    names += [f"argument {number}" for number in range(len(names) + 1, len(args) + 1)]
    call = _Call(dict(zip(names, args, strict=True)), kwargs)
    contents = _run(programs[0], call, _Contents(call.tensors))
    parts = _parts(contents)
    runs = [_run(program, call, _Recorder(contents, *parts)).sites for program in programs]
    arguments = {part: call.tensors[part.name] for part in parts[0]}
    observed = {part: names for part, names in parts[0].items() if names}
    return Recording(runs, arguments, observed, contents.repeats)


def edges_of(run: Run, stands_for: Mapping[Argument, list[str]]) -> frozenset[Edge]:
    """Return the pairs (parent, child) of direct dependence in a run.

    Args:
        run: a recorded run.
        stands_for: the names that each argument has as a parent. An argument without a name is left out.
    """
    return frozenset(
        (end, name)
        for name, site in run.items()
        for parent in site.parents
        for end in ([parent] if isinstance(parent, str) else stands_for.get(parent, ()))
        if end != name
    )


def without_effect(names: Sequence[str], edges: Collection[Edge]) -> list[str]:
    """Return those of some sites, in order, on which no other site depends than others of them.

    Args:
        names: the names of the sites, parents before children.
        edges: the edges of the program.
    """
    found: list[str] = []
    for name in reversed(names):
        if not {child for parent, child in edges if parent == name} - {*found}:
            found.append(name)
    return found[::-1]


def positional_names(program: Program, count: int) -> list[str]:
    """Return the names of a program's first `count` positional parameters, or of those that it shows."""
    parameters = (parameters_of(program) or {}).values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind in kinds][:count]


class _Call:
    """The arguments of a call, and the tensors among them, also within tuples, lists and dictionaries.

    Args:
        args: the positional arguments by name.
        kwargs: the keyword arguments.
    """

    def __init__(self, args: Mapping[str, Any], kwargs: Mapping[str, Any]) -> None:
        self.args, self.kwargs = args, kwargs
        self.tensors: dict[str, Tensor] = {}
        self.with_each(self.tensors.setdefault)

    def with_each(self, change: Callable[[str, Tensor], Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments with a function of the name and the tensor applied to each tensor."""

        def changed(name: str, value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(name, value)
            if type(value) is dict:
                return {key: changed(f"{name}[{key}]", part) for key, part in value.items()}
            if isinstance(value, list | tuple):
                parts = [changed(f"{name}[{i}]", part) for i, part in enumerate(value)]
                return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
            return value

        args = [changed(name, value) for name, value in self.args.items()]
        return args, {name: changed(name, value) for name, value in self.kwargs.items()}


class _Watcher(Messenger):
    """Looks at each sample site and its origins, and cuts the origins of its value.

    A value goes on as a copy, since labels are kept for memory, which a value may share with an argument.
    """

    def __init__(self, origins: Origins, subsamples: dict[str, Any]) -> None:
        super().__init__()
        self.origins, self.subsamples = origins, subsamples

    def labels_of(self, name: str, value: Tensor) -> Label:
        """Return the labels that an argument has."""
        raise NotImplementedError

    def look(self, msg: Any) -> int | None:
        """Record a site and return the label of its value, None for a value that keeps its origins."""
        raise NotImplementedError

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and not msg["done"] and msg["name"] in self.subsamples:
            msg["value"], msg["done"] = self.subsamples[msg["name"]], True

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            self.subsamples.setdefault(msg["name"], msg["value"])
        elif not site_is_deterministic(msg) and isinstance(msg["value"], Tensor):
            label = self.look(msg)
            if label is not None:
                msg["value"] = changed(torch.clone, msg["value"])
                self.origins.put(msg["value"], label)


W = TypeVar("W", bound=_Watcher)


def _run(program: Program, call: _Call, watcher: W) -> W:
    """Run a program on labelled copies of the arguments."""

    def labelled(name: str, value: Tensor) -> Tensor:
        copy = value.detach().clone()
        watcher.origins.put(copy, watcher.labels_of(name, copy))
        return copy

    with (
        nothing_moves(program),
        _one_operation_at_a_time(),
        poutine.block(),
        watcher.origins,
        watcher,
    ):
        args, kwargs = call.with_each(labelled)
        program(*args, **kwargs)
    return watcher


@contextmanager
def _one_operation_at_a_time() -> Iterator[None]:
    """Run recurrent layers and compiled modules as single operations, which say what depends on what."""
    fused: list[Any] = [torch.backends.mkldnn, torch.backends.cudnn]
    before = [library.enabled for library in fused]
    try:
        for library in fused:
            library.enabled = False
        # Without the compiler, which is slow to import, nothing is compiled.
        with torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext():
            yield
    finally:
        for library, enabled in zip(fused, before, strict=True):
            library.enabled = enabled


class _Contents(_Watcher):
    """Finds the elements of the arguments that each observed site has.

    Attributes:
        elements: for each observed site, whether its value was computed from each element of the arguments.
        exact: the same for elements that are unchanged in the value.
        repeats: the sites with the same elements as another, with that site's name.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        sizes = [value.numel() for value in tensors.values()]
        self.total = sum(sizes)
        super().__init__(Origins(self.total, content_only=True), {})
        firsts = np.cumsum([0, *sizes])
        self.spans = {name: slice(a, b) for name, a, b in zip(tensors, firsts, firsts[1:], strict=False)}
        self.elements: dict[str, np.ndarray] = {}
        self.exact: dict[str, np.ndarray] = {}
        self.repeats: dict[str, str] = {}
        self._in_order: dict[str, np.ndarray] = {}

    def labels_of(self, name: str, value: Tensor) -> Tensor:
        """Return a label of its own for each element."""
        span = self.spans[name]
        return torch.arange(span.start + 1, span.stop + 1).reshape(value.shape)

    def look(self, msg: Any) -> int:
        """Note the elements of an observed value."""
        if msg["is_observed"] and not isinstance(base_of(msg["fn"]), Unit):
            self._note(msg["name"], self.origins.of(msg["value"]), msg["value"].shape)
        return 0

    def _note(self, name: str, label: Any, shape: torch.Size) -> None:
        order = torch.as_tensor(label).expand(shape).flatten().cpu().numpy()
        there = np.zeros(order.max(initial=2 * self.total) + 1, dtype=bool)
        there[order] = True
        self.exact[name] = exact = there[1 : self.total + 1]
        self.elements[name] = elements = exact | there[self.total + 1 : 2 * self.total + 1]
        for one in np.flatnonzero(there[2 * self.total + 1 :]) + 2 * self.total + 1:
            elements |= self._of_one_argument(name, unpacked(self.origins.bits(int(one)), self.total))
        if len(order) and order.min() > 0 and order.max() <= self.total:
            for other, its in self._in_order.items():
                if np.array_equal(order, its):
                    variable = name if name in self.spans else self.repeats.get(other, other)
                    self.repeats |= dict.fromkeys({name, other} - {variable}, variable)
                    return
            self._in_order[name] = order

    def _of_one_argument(self, name: str, elements: np.ndarray) -> np.ndarray:
        """Keep the elements of the argument with the site's name, or of the only argument.

        Where neither is there, it is not clear which argument the value is, and none is kept.
        """
        found = [argument for argument, span in self.spans.items() if elements[span].any()]
        kept = np.zeros_like(elements)
        for argument in found:
            if argument == name or len(found) == 1:
                kept[self.spans[argument]] = elements[self.spans[argument]]
        return kept


def _parts(found: _Contents) -> tuple[dict[Argument, list[str]], dict[str, Any]]:
    """Split the arguments into parts whose elements are the values of the same sites.

    Returns:
        The sites of each part, none for a part that no site observes; and for each argument the number of
        the part of each element, or of all.
    """
    owned = _owned(found)
    stands_for: dict[Argument, list[str]] = {}
    numbers: dict[str, Any] = {}
    for argument, span in found.spans.items():
        of_all = [name for name, own in owned.items() if own[span].all()]
        of_some = {n: own[span] for n, own in owned.items() if n not in of_all and own[span].any()}
        numbers[argument], first = len(stands_for), np.zeros(1, dtype=np.int64)
        if of_some:
            codes = np.zeros(span.stop - span.start, dtype=np.int64)
            for own in of_some.values():
                codes = np.unique(2 * codes + own, return_inverse=True)[1].reshape(-1)
            _, first, which = np.unique(codes, return_index=True, return_inverse=True)
            numbers[argument] += which.reshape(-1)
        for part, place in enumerate(first):
            holders = [name for name, own in of_some.items() if own[place]]
            stands_for[Argument(argument, part)] = [n for n in owned if n in of_all or n in holders]
    return stands_for, numbers


def _owned(found: _Contents) -> dict[str, np.ndarray]:
    """Return which elements of the arguments each site stands for.

    The sites of an element are those that have it unchanged, else those that were computed from the fewest
    elements.
    """
    counts = {name: int(of.sum()) for name, of in found.elements.items() if name not in found.repeats}
    owned = {name: found.exact[name] for name in counts}
    taken = np.logical_or.reduce([np.zeros(found.total, dtype=bool), *owned.values()])
    for count in sorted(set(counts.values())):
        near = [name for name in counts if counts[name] == count]
        for name in near:
            owned[name] = owned[name] | (found.elements[name] & ~taken)
        for name in near:
            taken = taken | found.elements[name]
    return owned


def _without_masks(fn: Any) -> tuple[Any, list[Any]]:
    """Return a distribution without the masks of `fn.mask(mask)`, and these masks."""
    if isinstance(fn, MaskedDistribution):
        base, masks = _without_masks(fn.base_dist)
        return base, [fn._mask, *masks]
    if isinstance(fn, Independent):
        base, masks = _without_masks(fn.base_dist)
        return (Independent(base, fn.reinterpreted_batch_ndims) if masks else fn), masks
    return fn, []


class _Recorder(_Watcher):
    """Records each sample site, and the sites and parts of arguments that its distribution came from."""

    def __init__(
        self, contents: _Contents, stands_for: Mapping[Argument, list[str]], numbers: Mapping[str, Any]
    ) -> None:
        super().__init__(Origins(len(stands_for)), contents.subsamples)
        self.stands_for, self.numbers = stands_for, numbers
        self.sources: list[Any] = [*stands_for]
        self.sites: Run = {}

    def labels_of(self, name: str, value: Tensor) -> Label:
        """Return the label of the part that each element belongs to."""
        labels = self.numbers[name] + 1
        if isinstance(labels, int):
            return labels
        return torch.from_numpy(labels).reshape(value.shape)

    def look(self, msg: Any) -> int | None:
        """Record a site, unless a reparameterisation has made it a function of other sites."""
        name, observed = msg["name"], msg["is_observed"]
        check_inside_plates(name, msg)
        source = self._of_unmasked(msg["value"], msg["mask"], msg["fn"].event_dim)
        if observed and getattr(base_of(msg["fn"]), "v", None) is msg["value"] and source & {*self.sites}:
            return None
        own = {part for part in source if name in self.stands_for.get(part, ())}
        # A value that was computed from other sites' data alone is another datum, which they do not cause.
        others = {part for part in source - own if own or not self.stands_for.get(part)}
        self.sites[name] = RecordedSite(
            observed,
            name_of(msg["fn"]),
            self._parents(msg) | (others if observed else source),
            source if observed else frozenset(),
            {f.name: (size := members_of(f, msg), full_size_of(f, size)) for f in msg["cond_indep_stack"]},
            isinstance(base_of(msg["fn"]), Unit),
        )
        self.sources.append(name)
        return self.origins.label_of(1 << len(self.sources) - 1)

    def _parents(self, msg: Any) -> frozenset[Any]:
        """Return what a site's distribution was computed from."""
        value, mask = msg["value"], msg["mask"]
        if msg["is_observed"]:
            value = changed(torch.clone, value)
            self.origins.put(value, 0)
        # A latent is scored as it was drawn: a copy would miss the cache of flows that cannot be inverted.
        fn, masks = _without_masks(msg["fn"])
        parents = self._of_unmasked(fn.log_prob(value), mask)
        for weight in (mask, msg["scale"], *masks):  # one of arguments says which data count, and how much
            if isinstance(weight, Tensor):
                parents |= {part for part in self._of_unmasked(weight) if isinstance(part, str)}
        return parents

    def _of_unmasked(self, tensor: Tensor, mask: Any = None, event_dim: int = 0) -> frozenset[Any]:
        """Return the sources of the elements that count: not those of padding behind a sequence."""
        label = self.origins.of(tensor)
        if isinstance(label, Tensor) and isinstance(mask, Tensor) and mask.any():
            label, mask = torch.broadcast_tensors(label, mask.reshape(*mask.shape, *[1] * event_dim))
            label = label[mask]
        return self._named(self.origins.bits(label))

    def _named(self, bits: int) -> frozenset[Any]:
        return frozenset(self.sources[k] for k in np.flatnonzero(unpacked(bits, len(self.sources))))
