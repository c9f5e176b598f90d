"""Merge the plate diagrams of several runs of the same programs, as on labelled and on unlabelled data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from pyrovae.diagrams.diagram import Edge, Node, PlateDiagram
from pyrovae.errors import InputError


def merge_diagrams(*diagrams: PlateDiagram) -> PlateDiagram:
    """Merge the diagrams of runs on different data, such as data with and without labels.

    Args:
        *diagrams: two or more diagrams of the same programs.

    Returns:
        A diagram with the nodes and edges of every run. A variable that is observed in one run, and latent
        or absent in another, is partly observed. A plate that differs between the runs keeps the size of
        each run.

    Raises:
        InputError: there are fewer than two diagrams; or they contradict each other: a site is in different
            plates, has different distributions, or is a factor in one and a variable in another; or their
            generative edges together have a cycle.
    """
    strangers = [type(each).__name__ for each in diagrams if not isinstance(each, PlateDiagram)]
    if strangers or len(diagrams) < 2:
        got = f"a {strangers[0]}" if strangers else f"{len(diagrams)}"
        raise InputError(
            f"expected two or more plate diagrams to merge, got {got}: call "
            "merge_diagrams(plate_diagram(...), plate_diagram(...))."
        )
    return _merged(diagrams)


def _merged(diagrams: Sequence[PlateDiagram]) -> PlateDiagram:
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
    return replace(whole, plates={plate: sum(whole.run_sizes(plate)) for plate in plates})


def _merged_node(found: list[Node | None]) -> Node:
    """Merge one node from its versions in the runs, None for a run that lacks it."""
    nodes = [node for node in found if node is not None]
    sites = [node for node in nodes if node.origin != "argument"]
    _check_same_kind(nodes)
    _check_same_plates(sites)
    node = min(nodes, key=lambda node: ("model", "guide", "argument").index(node.origin))
    if not sites:  # an argument's plates are guessed from its shape, so keep those of all runs
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
        cycle = " -> ".join(error.args[1])
        raise _contradiction(f"their generative edges together have a cycle, {cycle}") from error


def _contradiction(what: str) -> InputError:
    return InputError(
        f"the diagrams contradict each other: {what}. Merge diagrams of the same model, run on "
        "different data."
    )
