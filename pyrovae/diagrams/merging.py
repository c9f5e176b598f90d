"""One plate diagram of several runs of the same programs, say on labelled and on unlabelled data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyrovae.data.checks import UNLABELLED, check_classes
from pyrovae.errors import InputError

if TYPE_CHECKING:
    from pyrovae.diagrams.diagram import Edge, Node, PlateDiagram

Call = tuple[tuple[Any, ...], dict[str, Any]]


def calls_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Call]:
    """The arguments as they are; if they are data and classes, some -1, those of a call for each kind.

    Raises:
        InputError: of classes that are partly -1 there is not one for each datum, or one is below -1.
    """
    named: dict[Any, Any] = dict(enumerate(args)) | kwargs
    last = [key for key in named if key in kwargs or key == len(args) - 1]
    classes = next((key for key in reversed(last) if _are_partly_unlabelled(named[key])), None)
    if len(named) != 2 or classes is None:
        return [(args, kwargs)]
    y, x = named.pop(classes), next(iter(named.values()))
    if not isinstance(x, Tensor) or x.dim() == 0:
        return [(args, kwargs)]
    check_classes(y, len(x))
    calls = []
    if (labelled := (y != UNLABELLED)).any():
        calls.append(_with_rows(labelled, args, kwargs))
    without = {name: value for name, value in kwargs.items() if name != classes}
    calls.append(_with_rows(~labelled, args if classes in kwargs else args[:-1], without))
    return calls


def _are_partly_unlabelled(y: Any) -> bool:
    if not isinstance(y, Tensor) or y.dim() != 1 or y.is_floating_point() or y.is_complex():
        return False
    return bool((y == UNLABELLED).any())


def _with_rows(rows: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    return tuple(value[rows.to(value.device)] for value in args), {
        name: value[rows.to(value.device)] for name, value in kwargs.items()
    }


def merged(diagrams: Sequence[PlateDiagram]) -> PlateDiagram:
    """The diagrams in one; see `plates.merge_diagrams`."""
    runs = tuple(run for diagram in diagrams for run in (diagram.runs or (diagram,)))
    names = list(dict.fromkeys(name for run in runs for name in run.nodes))
    plates = list(dict.fromkeys(plate for run in runs for plate in run.plates))
    generative = frozenset(edge for run in runs for edge in run.generative_edges)
    _check_acyclic(generative)
    whole = replace(
        runs[0],
        nodes={name: _merged_node([run.nodes.get(name) for run in runs]) for name in names},
        plates=dict.fromkeys(plates, 0),
        generative_edges=generative,
        inference_edges=frozenset(edge for run in runs for edge in run.inference_edges),
        has_guide=any(run.has_guide for run in runs),
        factor_edges=frozenset(edge for run in runs for edge in run.factor_edges),
        runs=runs,
    )
    return replace(whole, plates={plate: sum(_sizes(whole, plate)) for plate in plates})


def _merged_node(found: list[Node | None]) -> Node:
    """One node in the runs, None where a run lacks it."""
    nodes = [node for node in found if node is not None]
    sites = [node for node in nodes if node.origin != "argument"]
    _check_same_kind(nodes)
    _check_same_plates(sites)
    node = min(nodes, key=lambda node: ("model", "guide", "argument").index(node.origin))
    if not sites:  # what is known of an argument's plates is that its shape has their size
        shared = set.intersection(*(set(node.plates) for node in nodes))
        node = replace(node, plates=tuple(plate for plate in node.plates if plate in shared))
    statuses = {node.status for node in nodes}
    if "observed" in statuses and (len(statuses) > 1 or None in found):
        node = replace(node, status="partly")
    return node


def _check_same_kind(nodes: list[Node]) -> None:
    name = nodes[0].name
    if len({node.status == "factor" for node in nodes}) > 1:
        raise _contradiction(f"{name!r} is a factor in one and a variable in another")
    families = dict.fromkeys(node.distribution for node in nodes if node.origin == "model")
    if len(families) > 1:
        one, other, *_ = families
        raise _contradiction(f"{name!r} has the distribution {one} in one and {other} in another")


def _check_same_plates(sites: list[Node]) -> None:
    places = {frozenset(site.plates): site for site in sites}
    if len(places) > 1:
        one, other, *_ = (", ".join(map(repr, site.plates)) or "no plate" for site in places.values())
        raise _contradiction(f"{sites[0].name!r} is in {one} in one and in {other} in another")


def _check_acyclic(edges: frozenset[Edge]) -> None:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for parent, child in sorted(edges):
        sorter.add(child, parent)
    try:
        sorter.prepare()
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise _contradiction(f"their generative edges together go round in a circle, {circle}") from error


def _contradiction(what: str) -> InputError:
    return InputError(
        f"the diagrams contradict each other: {what}. Merge diagrams of the same model, run on "
        "different data."
    )


def sizes_of(diagram: PlateDiagram, plate: str) -> list[str]:
    """The sizes of a plate in words, one if the runs agree in it; see `PlateDiagram.sizes`."""
    sizes = _sizes(diagram, plate)
    if len(sizes) == 1:
        return [f"{sizes[0]:,}"]
    runs = _runs_with(diagram, plate)
    differing = [name for name in diagram.members(plate) if _runs_differ(runs, name)]
    most = {name: max(_presence(run, name) for run in runs) for name in differing}
    words = []
    for run, size in zip(runs, sizes, strict=True):
        has = ", ".join(name for name in differing if _presence(run, name) == most[name])
        lacks = ", ".join(differing)
        words.append(f"{size:,}" + (f" with {has}" if has else f" without {lacks}" if lacks else ""))
    return words


def _sizes(diagram: PlateDiagram, plate: str) -> list[int]:
    """A size for each run that has the plate; or one size, if the runs may be about the same data."""
    if not diagram.runs:
        return [diagram.plates[plate]]
    runs = _runs_with(diagram, plate)
    innermost = [name for name in diagram.members(plate) if diagram.plates_around(name)[-1] == plate]
    sizes = [run.plates[plate] for run in runs]
    if len(set(sizes)) == 1 and not any(_runs_differ(runs, name) for name in innermost):
        return sizes[:1]
    return sizes


def _runs_with(diagram: PlateDiagram, plate: str) -> list[PlateDiagram]:
    return [run for run in diagram.runs if plate in run.plates]


def _runs_differ(runs: list[PlateDiagram], name: str) -> bool:
    return len({_presence(run, name) for run in runs}) > 1


def _presence(run: PlateDiagram, name: str) -> int:
    """How much a run has of a node: 0 nothing, 1 a latent, 2 a value or a factor."""
    if name not in run.nodes:
        return 0
    return 1 if run.nodes[name].status == "latent" else 2
