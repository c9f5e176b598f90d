"""Checks of a pair, before training or evaluation begins."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.compute.indices import indices_checked
from pyrovae.errors import InputError, cause
from pyrovae.programs.accounting import missing_in_guide
from pyrovae.programs.devices import device_of
from pyrovae.programs.masked_latents import check_masks
from pyrovae.programs.missing_values import check_missing_values
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide, Pair, Program
from pyrovae.programs.parameters import SameShapes
from pyrovae.programs.plate_checks import check_same_plates, check_same_shapes, plate_problem
from pyrovae.programs.reach import modules_of
from pyrovae.programs.rows import Arguments
from pyrovae.programs.running import run_pair
from pyrovae.programs.shape_checks import check_shapes
from pyrovae.programs.sites import is_sample, latent_sites, observed_sites
from pyrovae.programs.structure import Structure
from pyrovae.programs.support_checks import check_observed, check_same_support


def check_pair(pair: ModelAndGuide, *args: Any, **kwargs: Any) -> None:
    """Run the pair once with validation, and refuse programs that do not fit together or to the data.

    Args:
        pair: a pair.
        args: the arguments of both programs, the data `(N, *x_shape)` first.
        kwargs: their keyword arguments.

    Raises:
        InputError: the pair does not run on these arguments; a site has no distribution; the model observes
            nothing, or the guide observes a site that the model observes; the guide samples a latent that
            the model lacks and does not mark it as auxiliary; the guide lacks a latent of the model that
            can neither be left out nor summed out; a latent has other plates, another shape or fewer
            classes in the guide than in the model; the guide draws values that have no density in the
            model; a value, mask or log density has another shape than its plates say; observed values
            lie outside of the support of their distribution; a density reads values that are missing; or
            only the guide masks a latent, or the model masks one and uses it all the same.
    """
    noted = poutine.trace(_Distributions("guide")(pair.guide))
    arguments, ran = Arguments(args, kwargs), False
    shapes = ", ".join(str(tuple(a.shape)) for a in args if isinstance(a, Tensor))
    try:
        with (
            torch.no_grad(),
            pyro.validation_enabled(True),
            evaluating(pair),
            SameShapes(),
            indices_checked(device_of(pair), args, kwargs, getattr(pair.model, "keywords", {})),
        ):
            checked = _Distributions("model")(_CompareLatents(noted)(pair.model))
            model_trace, guide_trace = run_pair(Pair(checked, noted), *args, **kwargs)
            ran = True
            _check_roles(model_trace, guide_trace)
            _check_latents(pair, arguments, model_trace, guide_trace)
            for name in observed_sites(model_trace):
                site = model_trace.nodes[name]
                check_observed(name, site, partial(_drawn_again, pair, arguments, name))
            for program, trace in (("guide", guide_trace), ("model", model_trace)):
                trace.compute_log_prob()
                for name, site in trace.nodes.items():
                    if is_sample(site):
                        check_shapes(program, name, site)
            check_missing_values(pair.model, model_trace, arguments)
            check_masks(pair, arguments, model_trace, guide_trace)
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        # Pyro appends the shapes of all sites. They help with its own errors, not with ours.
        if isinstance(error, InputError):
            message = str(error).split("\nTrace Shapes")[0]
            if not ran and getattr(pair.model, "keywords", {}):  # what passes whole may be the cause
                message += f" The model and guide ran on data of shape {shapes}{_given_to(pair, kwargs)}."
            raise InputError(message) from error
        failed: Literal["model", "guide"] = "model" if "_RETURN" in noted.trace.nodes else "guide"
        if problem := plate_problem(error, failed, pair.model, arguments):
            raise InputError(problem) from error
        # What has a wrong number of rows is told in the first line; the shapes of sites do not help.
        told = cause(error) if getattr(pair.model, "keywords", {}) else error
        raise InputError(
            f"the model and guide do not run on data of shape {shapes}{_given_to(pair, kwargs)}"
            f"{_type_problem(args, pair)}: {told}{_device_problem(error)}"
        ) from error


def _given_to(pair: ModelAndGuide, kwargs: Mapping[str, Any]) -> str:
    """Describe what a call gives beside the data, for a message; empty if there is nothing."""
    rows = [f"'{name}' {_shape_of(value)} by rows" for name, value in kwargs.items()]
    whole = getattr(pair.model, "keywords", {})  # as `programs.given` binds it
    parts = rows + [f"'{name}' {_shape_of(value)} as a whole" for name, value in whole.items()]
    tensors = any(isinstance(value, Tensor) and value.dim() for value in whole.values())
    cut = " (a tensor is cut with the data if it has a row for each of them)" if tensors else ""
    return f", given {' and '.join(parts)}{cut}" if parts else ""


def _shape_of(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"({type(value).__name__})"


def _drawn_again(pair: ModelAndGuide, arguments: Arguments, name: str) -> Any:
    return run_pair(pair, *arguments.args, **arguments.kwargs)[0].nodes[name]


def _type_problem(args: tuple[Any, ...], *programs: Program | ModelAndGuide) -> str:
    """Describe data of another type than the parameters, for a message; empty if the types agree."""
    parameters = (p for module in modules_of(*programs) for p in module.parameters())
    types = {p.dtype for p in parameters if p.is_floating_point()}
    of_data = next((a.dtype for a in args if isinstance(a, Tensor)), None)
    if not types or of_data in types:
        return ""
    return f" and type {of_data}; the parameters have type {types.pop()} (use x.to or model.to(dtype))"


def _device_problem(error: Exception) -> str:
    """Say what to do where tensors lie on two devices, for a message; empty if that is not the problem."""
    if "on the same device" not in str(error):
        return ""
    return (
        ". Data, modules and parameters have been moved to one device, so it is another tensor that the "
        "programs use: make it from the data, such as x.new_zeros(2), register it in a module as a buffer, "
        'or train with device="cpu"'
    )


def _check_roles(model_trace: Trace, guide_trace: Trace) -> None:
    """Refuse a model that observes nothing, and a guide that observes the model's data."""
    in_model = observed_sites(model_trace)
    both = [
        name
        for name in observed_sites(guide_trace)
        if name in in_model and not guide_trace.nodes[name]["infer"].get("is_auxiliary")
    ]
    if not in_model or both:
        model, guide = (
            ", ".join(map(repr, sites)) or "no site" for sites in (in_model, observed_sites(guide_trace))
        )
        raise InputError(
            f"the model observes {model}, and the guide observes {guide}: the model must observe the data, "
            "with obs=x, and the guide must only sample the latents. Give them in this order: model, guide."
            ' If the site of the guide is a term of training, mark it with infer={"is_auxiliary": True}.'
        )


def _check_latents(
    pair: ModelAndGuide, arguments: Arguments, model_trace: Trace, guide_trace: Trace
) -> None:
    """Refuse a latent that is in one program only, unless the bound is right without the other."""
    in_model, in_guide = latent_sites(model_trace), latent_sites(guide_trace)
    if set(in_model) - set(in_guide):
        missing_in_guide(Structure(pair, *arguments))
    unmarked = [
        name
        for name in in_guide
        if name not in in_model and not guide_trace.nodes[name]["infer"].get("is_auxiliary")
    ]
    if unmarked:
        raise InputError(
            f"the guide samples '{unmarked[0]}', which the model does not have among its latents "
            f"({', '.join(map(repr, in_model)) or 'none'}): rename the site, add it to the model, or mark "
            'it with infer={"is_auxiliary": True} if a Delta sets a latent from it.'
        )


class _Distributions(Messenger):
    """Refuses a site that samples from something other than a distribution."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self.program = program

    def _pyro_sample(self, msg: Any) -> None:
        if not hasattr(msg["fn"], "log_prob"):
            raise InputError(
                f"the {self.program}'s site '{msg['name']}' has a {type(msg['fn']).__name__} in the place "
                "of a distribution: as prior, likelihood or posterior use a module whose forward returns a "
                "Pyro distribution. A distribution itself does not work, because calling it draws a value."
            )


class _CompareLatents(Messenger):
    """Compares each latent of the model with the guide's as soon as it is sampled.

    Without this check, a later statement would fail with an error that is harder to understand, or the
    shapes would broadcast and nothing would fail.
    """

    def __init__(self, guide: Any) -> None:
        super().__init__()
        self.guide = guide

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or poutine.util.site_is_subsample(msg):
            return
        if (site := self.guide.trace.nodes.get(msg["name"])) is not None:
            check_same_plates(msg["name"], msg, site)
            check_same_shapes(msg["name"], msg["fn"], site["fn"])
            check_same_support(msg["name"], msg["fn"], site["fn"], site["value"])


def check_site_names(weights: Collection[str], sites: Collection[str]) -> None:
    """Refuse weights for sites that the programs do not have. Such weights would be ignored.

    Args:
        weights: the names of the weighted sites.
        sites: the names of the sites that the programs have.

    Raises:
        InputError: a weight is for an unknown site. The message names it and the known sites.
    """
    if unknown := sorted(set(weights) - set(sites)):
        raise InputError(
            f"there is no site {', '.join(map(repr, unknown))} to give a weight to: use a site that the "
            f"programs have, {', '.join(sorted(sites))}."
        )
