"""The class site of a pair: the categorical site whose value a labelled datum gives."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from pyro.distributions import Categorical
from torch import Tensor

from pyrovae.data.checks import holds_classes
from pyrovae.errors import InputError
from pyrovae.programs.distributions import base_of, in_form_of, is_class
from pyrovae.programs.pair import ModelAndGuide, Program, programs_of
from pyrovae.programs.rows import Arguments
from pyrovae.programs.signatures import parameters_of
from pyrovae.programs.structure import Structure, structure


class ClassSite(NamedTuple):
    """A categorical site and its number of classes, C."""

    name: str
    num_classes: int


def takes_classes(model: Program, given: Collection[str] = ()) -> bool:
    """Whether the model has a second positional parameter, for the classes, that is free.

    Args:
        model: a model.
        given: the names of the parameters that it gets by keyword, such as a condition.
    """
    keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    parameters = (parameters_of(model) or {}).values()
    positional = [each.name for each in parameters if each.kind not in keyword]
    return len(positional) > 1 and positional[1] not in given


def class_site(
    pair: ModelAndGuide | Program, x: Tensor, kwargs: Mapping[str, Any] | None = None
) -> ClassSite | None:
    """Find the site that observes the classes when the model is called with them.

    It is the first categorical site that the model observes in a call `model(x, y)` and not in `model(x)`.

    Args:
        pair: a pair or a model.
        x: data, `(N, *x_shape)`; their values do not matter.
        kwargs: the keyword arguments of both calls.

    Returns:
        The site, or None if the model takes no classes or observes them at no categorical site.
    """
    found = labelled_call(pair, x, kwargs or {})
    return None if found is None else found[0]


def labelled_call(
    pair: ModelAndGuide | Program, x: Tensor, kwargs: Mapping[str, Any]
) -> tuple[ClassSite, Structure] | None:
    """Find the class site as `class_site` does, and a call of the model with classes.

    Returns:
        The site, and the structure of the model in this call. Its second argument are classes in the form
        that the model takes: whole numbers `(N,)`, or one-hot rows `(N, C)`.
    """
    model, _ = programs_of(pair)
    if not takes_classes(model, kwargs):
        return None
    unlabelled, whole = (
        structure(model, x, **kwargs),
        torch.zeros(len(x), dtype=torch.long, device=x.device),
    )
    latents = [unlabelled.traces.model.nodes[name]["fn"] for name in categorical_latents(unlabelled)]
    forms = [whole, *(in_form_of(fn, whole) for fn in latents[:1] if not isinstance(fn, Categorical))]
    for y in forms:
        labelled, last = structure(model, x, y, **kwargs), y is forms[-1]
        try:
            names = [name for name in labelled.observed if name not in unlabelled.observed]
        except Exception:  # a model that takes one-hot rows may fail in any way on whole numbers
            if last:
                raise
            continue
        for name in names:
            node = labelled.traces.model.nodes[name]
            if is_class(node["fn"]) and (last or node["value"].shape == node["fn"].shape()):
                return ClassSite(name, base_of(node["fn"]).probs.shape[-1]), labelled
    return None


def one_hot_size(pair: ModelAndGuide, y: Tensor, arguments: Arguments) -> int | None:
    """Return C if the programs take classes as one-hot rows `(N, C)`; None if they take them as they are.

    Classes are compared with the number of the class site's here, since a class out of range would fail
    only within a kernel of the programs, which on a GPU ends all work of the process.

    Args:
        pair: a pair.
        y: classes `(N,)`, or other values for each datum.
        arguments: the other arguments of a call; the values do not matter.

    Raises:
        InputError: y are one-hot rows, and the programs take whole numbers; or the programs have no such
            class.
    """
    rows_given = y.is_floating_point() and y.dim() == 2 and are_one_hot(y)
    if not rows_given and not (holds_classes(y) and y.dim() == 1):
        return None
    (x,), kwargs = arguments
    try:
        found = labelled_call(pair, x, kwargs)
    except Exception:  # a model may need its classes, or fail on those that are tried here
        return None
    if found is None:
        return None
    (name, num_classes), call = found
    in_rows = call.args[1].dim() == 2
    if rows_given and not in_rows and y.shape[1] == num_classes:
        raise InputError(
            f"the classes y are one-hot rows of shape {tuple(y.shape)}, and the programs take whole "
            f"numbers for site '{name}': give y.argmax(1)."
        )
    as_given = in_rows or call.traces.model.nodes[name]["value"] is call.args[1]  # not y // 2, for example
    if not rows_given and as_given and (largest := int(y.long().max())) >= num_classes:
        raise InputError(
            f"the classes y go up to {largest}, and site '{name}' has {num_classes}, counted from 0: give "
            "classes that it has, or a model of more classes."
        )
    return num_classes if in_rows and not rows_given else None


def are_one_hot(y: Tensor) -> bool:
    """Whether the rows of `(N, C)` are one-hot."""
    return bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all())


def categorical_latents(of: Structure) -> list[str]:
    """Return the names of the latents that hold one class for each datum, of either program."""
    traces = [trace for trace in (of.traces.guide, of.traces.model) if trace is not None]
    found = []
    for name in (*of.latents, *of.auxiliary):
        node = next(trace.nodes[name] for trace in traces if name in trace.nodes)
        if is_class(node["fn"]) and of[name].scope == "local":
            found.append(name)
    return found
