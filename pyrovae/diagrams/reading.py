"""Read the plate diagram of a model and its guide off the running programs.

Both programs run once. There is an edge where a program used the parent to compute the child. If some data
have a class and others do not, the programs run once on the labelled and once on the unlabelled data, and
the two diagrams are merged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyrovae.diagrams.calls import calls_for
from pyrovae.diagrams.diagram import Node, PlateDiagram
from pyrovae.diagrams.merging import merge_diagrams
from pyrovae.programs.dependence import Argument, edges_of, observed_arguments, record
from pyrovae.programs.dependence import RecordedSite as Site
from pyrovae.programs.pair import ModelAndGuide, Program, check_pair_or_program, programs_of


def plate_diagram(
    pair: ModelAndGuide | Program, *args: Any, given: Mapping[str, Any] | None = None, **kwargs: Any
) -> PlateDiagram:
    """Run the model and the guide once on the given arguments and read off the plate diagram.

    The programs run in evaluation mode. Afterwards the modules' modes, the random state and Pyro's
    parameter store are as before.

    If the model observes an argument, or a value computed from it, the diagram shows that observed site.
    Any other argument that a program uses is a node of its own. A deterministic site is not a node:
    dependence passes through it.

    Args:
        pair: a model and its guide, or a single program, which is drawn as a model without a guide.
        *args: the arguments of the programs. If they are data and their classes, whole numbers `(N,)`, and
            some classes are -1 for unlabelled data, the programs run on the labelled data with their
            classes and on the unlabelled data without. Then the two diagrams are merged (`merge_diagrams`).
        given: further arguments of the programs by name, as in `fit`. Tensors with a row for each datum are
            split with the data. None means nothing.
        **kwargs: the keyword arguments of the programs.

    Returns:
        The diagram of what ran, even if model and guide differ in their latents.

    Raises:
        InputError: the first argument is neither a pair nor a program, or a second program follows it; or
            some classes are -1, and there is not one class for each datum, or one is below -1.
    """
    check_pair_or_program("plate_diagram", pair, args)
    model, guide = programs_of(pair)
    runs = [_diagram_of_call(model, guide, *call) for call in calls_for(args, kwargs, given or {})]
    return merge_diagrams(*runs) if len(runs) > 1 else runs[0]


def _diagram_of_call(
    model: Program, guide: Program | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> PlateDiagram:
    programs = (model,) if guide is None else (model, guide)
    runs, given = record(programs, args, kwargs)
    return _assemble(runs[0], runs[1] if guide is not None else {}, given, guide is not None)


def _assemble(
    model: dict[str, Site],
    guide: dict[str, Site],
    given: dict[Argument, Tensor],
    has_guide: bool,
) -> PlateDiagram:
    """Make the diagram of the recorded sites of a model and a guide, and of the arguments given to them."""
    stands_for = observed_arguments(model)
    model = _with_one_node_for_each_argument(model, stands_for)
    used = frozenset().union(*(site.parents for run in (model, guide) for site in run.values()))
    for argument in given:
        if argument in used and argument not in stands_for:
            taken = argument.name in model or argument.name in guide
            stands_for[argument] = [argument.name + " (argument)" * taken]
    sites = model | {name: site for name, site in guide.items() if name not in model}
    generative, inference = edges_of(model, stands_for), edges_of(guide, stands_for)
    factors = frozenset(edge for edge in generative | inference if sites[edge[1]].factor)
    nodes = {name: _node(name, site, in_model=name in model) for name, site in sites.items()}
    for argument, names in stands_for.items():
        if names[0] not in nodes:
            children = [sites[child] for parent, child in generative | inference if parent in names]
            inside = _plates_of_argument(given[argument], children)
            nodes[names[0]] = Node(names[0], "observed", "", inside, "argument")
    frames = [frame for site in sites.values() for frame in site.frames]
    sizes = {frame.name: int(frame.full_size or frame.size) for frame in reversed(frames)}
    plates = {frame.name: sizes[frame.name] for frame in frames}
    return PlateDiagram(nodes, plates, generative - factors, inference - factors, has_guide, factors)


def _node(name: str, site: Site, in_model: bool) -> Node:
    return Node(
        name,
        "factor" if site.factor else "observed" if site.observed else "latent",
        "" if site.distribution == "Unit" else site.distribution,
        tuple(frame.name for frame in site.frames),
        "model" if in_model else "guide",
    )


def _with_one_node_for_each_argument(
    model: dict[str, Site], stands_for: dict[Argument, list[str]]
) -> dict[str, Site]:
    """Turn all but one of the sites that observe the same argument into factors.

    The argument is one variable, drawn at the site of its name or else at the first. Its densities at the
    other sites are factors between it and what they depend on. Changes `stands_for` to match.
    """
    model = dict(model)
    for argument, names in stands_for.items():
        variable = argument.name if argument.name in names else names[0]
        for name in [name for name in names if name != variable]:
            site = model[name]
            if site.computed_from == {argument} and _same(site.value, model[variable].value):
                model[name] = site._replace(parents=site.parents | {variable}, factor=True)
                names.remove(name)
    return model


def _same(one: Tensor, other: Tensor) -> bool:
    return one.numel() == other.numel() and bool((one.flatten() == other.flatten()).all())


def _plates_of_argument(value: Tensor, children: list[Site]) -> tuple[str, ...]:
    """Guess an argument's plates: those around all its children whose size is in the argument's shape."""
    shared = set.intersection(*({frame.name for frame in site.frames} for site in children))
    return tuple(
        frame.name
        for frame in children[0].frames
        if frame.name in shared and {frame.size, frame.full_size} & set(value.shape)
    )
