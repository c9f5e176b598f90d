"""The class site of a pair: the categorical site whose value a labelled datum gives."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from pyro.distributions import Categorical, OneHotCategorical
from torch import Tensor

from pyrovae.programs.distributions import base_of, in_form_of
from pyrovae.programs.pair import ModelAndGuide, Program, programs_of
from pyrovae.programs.structure import Structure, structure


class ClassSite(NamedTuple):
    """A categorical site and its number of classes, C."""

    name: str
    num_classes: int


def takes_classes(model: Program, given: Collection[str] = ()) -> bool:
    """Whether the model has a second positional parameter, for the classes.

    Args:
        model: a model.
        given: the names of the parameters that it gets by keyword.
    """
    parameters = inspect.signature(model).parameters.values()
    keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    return sum(each.kind not in keyword and each.name not in given for each in parameters) > 1


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
    model, _ = programs_of(pair)
    kwargs = kwargs or {}
    if not takes_classes(model, kwargs):
        return None
    unlabelled, y = structure(model, x, **kwargs), torch.zeros(len(x), dtype=torch.long, device=x.device)
    for name in categorical_latents(unlabelled)[:1]:  # the program may read y, so it gets its own form
        y = in_form_of(unlabelled.traces.model.nodes[name]["fn"], y)
    labelled, without = structure(model, x, y, **kwargs), unlabelled.observed
    for name in labelled.observed:
        base = base_of(labelled.traces.model.nodes[name]["fn"])
        if name not in without and isinstance(base, Categorical | OneHotCategorical):
            return ClassSite(name, base.probs.shape[-1])
    return None


def categorical_latents(of: Structure) -> list[str]:
    """Return the names of the latents that hold one class for each datum, also those of the guide only."""
    found = []
    for name in (*of.latents, *of.auxiliary):
        trace = of.traces.guide or of.traces.model
        fn = base_of(trace.nodes[name]["fn"]) if name in trace.nodes else None
        if isinstance(fn, Categorical | OneHotCategorical) and of[name].scope == "local":
            found.append(name)
    return found
