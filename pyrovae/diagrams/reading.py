"""Read the plate diagram of a model and its guide off the running programs.

The programs run on the data, and there is an edge where a program used the value of the parent to compute
the child (`programs.dependence`). If some data have a class and others do not, the programs run on the
labelled and on the unlabelled data, and the two diagrams are merged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Literal

from pyro import poutine
from torch import Tensor

from pyrovae.diagrams.calls import calls_for
from pyrovae.diagrams.diagram import Node, PlateDiagram
from pyrovae.diagrams.merging import merge_diagrams
from pyrovae.errors import InputError
from pyrovae.programs.dependence import RecordedSite as Site
from pyrovae.programs.dependence import Recording, edges_of, record, without_effect
from pyrovae.programs.devices import beside
from pyrovae.programs.modes import nothing_moves
from pyrovae.programs.pair import ModelAndGuide, Program, check_pair_or_program, programs_of
from pyrovae.programs.plate_checks import plate_problem
from pyrovae.programs.rows import Arguments, Whole


def plate_diagram(
    pair: ModelAndGuide | Program, *args: Any, given: Mapping[str, Any] | None = None, **kwargs: Any
) -> PlateDiagram:
    """Run the model and the guide on the given arguments and read off the plate diagram.

    The guide runs once and the model twice, in evaluation mode. Afterwards the modules' modes, the random
    state and Pyro's parameter store are as before.

    If the model observes an argument, or a value computed from it, the diagram shows that observed site.
    Steps or columns of an argument that are observed at different sites are different nodes. Any other
    argument that a program uses is a node of its own. A deterministic site is not a node: dependence passes
    through it. Only values count: a tensor in the shape of another does not depend on it. Branches,
    numbers such as `float(z)` and NumPy arrays are not followed.

    Args:
        pair: a model and its guide, or a single program, which is drawn as a model without a guide.
        *args: the arguments of the programs. If they are data and their classes, whole numbers `(N,)`, and
            some classes are -1 for unlabelled data, the programs run on the labelled data with their
            classes and on the unlabelled data without. Then the two diagrams are merged (`merge_diagrams`).
        given: what is always given, by name, such as `{"c": c}`. Both programs get it by keyword. Each
            tensor is a node, even if no distribution depends on it. Tensors whose first size is N are cut
            with the data, but for `programs.Whole(tensor)`.
        **kwargs: the keyword arguments of the programs.

    Returns:
        The diagram of what ran, even if model and guide differ in their latents.

    Raises:
        InputError: the first argument is neither a pair nor a program, or a second program follows it; some
            classes are -1, and there is not one class for each datum, or one is below -1; a distribution
            does not fit into its plate; or a site has further batch dimensions than its plates.
    """
    check_pair_or_program("plate_diagram", pair, args)
    model, guide = programs_of(pair)
    args, kwargs, given = beside(pair, (args, kwargs, dict(given or {})))
    runs = [_diagram_of_call(model, guide, call, given) for call in calls_for(args, kwargs, given)]
    return merge_diagrams(*runs) if len(runs) > 1 else runs[0]


def _diagram_of_call(
    model: Program, guide: Program | None, call: Arguments, given: Collection[str]
) -> PlateDiagram:
    programs = (model,) if guide is None else (model, guide)
    kwargs = {name: v.value if isinstance(v, Whole) else v for name, v in call.kwargs.items()}
    try:
        found = record(programs, call.args, kwargs)
    except ValueError as error:
        failed: Literal["model", "guide"] = "model" if _fails(model, call.args, kwargs) else "guide"
        if problem := plate_problem(error, failed, model, Arguments(call.args, kwargs)):
            raise InputError(problem) from error
        raise
    return _assemble(found, given)


def _fails(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    try:
        with nothing_moves(program), poutine.block():
            program(*args, **kwargs)
    except ValueError:
        return True
    return False


def _assemble(found: Recording, given: Collection[str]) -> PlateDiagram:
    """Make the diagram of the recorded sites of a model and a guide, and of the arguments given to them."""
    model, guide = found.runs[0], found.runs[1] if len(found.runs) > 1 else {}
    model = model | {
        # The value is one variable. Its density here is a factor between it and what this depends on.
        name: model[name]._replace(parents=model[name].parents | {variable}, factor=True)
        for name, variable in found.repeats.items()
    }
    sites = model | {name: site for name, site in guide.items() if name not in model}
    used = frozenset().union(*(site.parents for run in (model, guide) for site in run.values()))
    stands_for = dict(found.stands_for)
    observed = {argument.name for argument in stands_for}
    for argument in found.arguments:
        is_given = argument.name.partition("[")[0] in given and argument.name not in observed
        if argument not in stands_for and (argument in used or is_given):
            stands_for[argument] = [argument.name + " (argument)" * (argument.name in sites)]
    generative, inference = edges_of(model, stands_for), edges_of(guide, stands_for)
    factors = frozenset(edge for edge in generative | inference if sites[edge[1]].factor)
    nodes = {name: _node(name, site, in_model=name in model) for name, site in sites.items()}
    if found.runs[1:]:
        alone = [name for name in model if name not in guide and nodes[name].status == "latent"]
        for name in without_effect(alone, generative):
            nodes[name] = replace(nodes[name], status="predicted")
    for argument, names in stands_for.items():
        if names[0] not in nodes:
            children = [sites[child] for parent, child in generative | inference if parent in names]
            inside = _plates_of_argument(found.arguments[argument], children)
            nodes[names[0]] = Node(names[0], "observed", "", inside, "argument")
    plates: dict[str, int] = {}
    for site in sites.values():
        for name, (_, full_size) in site.plates.items():
            plates.setdefault(name, full_size)
    return PlateDiagram(
        nodes, plates, generative - factors, inference - factors, bool(found.runs[1:]), factors
    )


def _node(name: str, site: Site, in_model: bool) -> Node:
    return Node(
        name,
        "factor" if site.factor else "observed" if site.observed else "latent",
        "" if site.distribution == "Unit" else site.distribution,
        tuple(site.plates),
        "model" if in_model else "guide",
    )


def _plates_of_argument(value: Tensor, children: list[Site]) -> tuple[str, ...]:
    """Guess an argument's plates: those around all its children whose size is in the argument's shape."""
    return tuple(
        name
        for name, sizes in (children[0].plates if children else {}).items()
        if all(name in child.plates for child in children) and set(sizes) & set(value.shape)
    )
