"""Checks that a latent has the same plates and the same shape in the model and in the guide."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pyro import poutine

from pyrovae.errors import InputError
from pyrovae.programs.distributions import base_of
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import Program
from pyrovae.programs.rows import Arguments


def check_same_plates(name: str, in_model: Mapping[str, Any], in_guide: Mapping[str, Any]) -> None:
    """Refuse a latent that has other plates in the guide than in the model. Both sites are trace nodes."""
    frames = [
        {(frame.dim, frame.size): frame.name for frame in site["cond_indep_stack"] if frame.vectorized}
        for site in (in_model, in_guide)
    ]
    if frames[0].keys() != frames[1].keys():
        model, guide = (
            " and ".join(
                f"plate '{plate}' of {size} at dimension {dim}" for (dim, size), plate in of.items()
            )
            for of in frames
        )
        raise InputError(
            f"site '{name}' lies under {model or 'no plate'} in the model, but under {guide or 'no plate'} "
            'in the guide: open the same plates in both, that of the data with pyro.plate("data", len(x)).'
        )


def check_same_shapes(name: str, in_model: Any, in_guide: Any) -> None:
    """Refuse a latent whose distribution has other shapes in the guide than in the model."""
    model, guide = ((tuple(fn.batch_shape), tuple(fn.event_shape)) for fn in (in_model, in_guide))
    if model == guide:
        return
    remedy = "sample values of the model's shape in the guide"
    missing = in_model.event_dim - in_guide.event_dim
    if missing > 0 and not base_of(in_guide).has_enumerate_support:  # an event cannot be made of classes
        remedy = (
            f"declare the last {missing} dimensions of the guide's distribution with .to_event({missing})"
        )
    raise InputError(
        f"site '{name}' has event shape {model[1]} and batch shape {model[0]} in the model, but "
        f"event shape {guide[1]} and batch shape {guide[0]} in the guide: {remedy}."
    )


_MISFIT = re.compile(r"Shape mismatch inside plate\('(.*)'\) at site (.*) dim (-\d+), (\d+) vs (\d+)")


def plate_problem(
    error: Exception, program: Literal["model", "guide"], model: Program, arguments: Arguments
) -> str | None:
    """Return the message for Pyro's error about a distribution that does not fit its plate, else None.

    Args:
        error: the error.
        program: the program that raised it.
        model: the model of the pair.
        arguments: the arguments of the call.
    """
    if not (found := _MISFIT.search(str(error))):
        return None
    plate, name, dim, size, length = found.groups()
    shapes, extra, event_dim = _shapes_of(error)
    if extra == 0:
        remedy = (
            f"if the value of one datum has {length} numbers, declare them as event dimensions with "
            f".to_event({event_dim + 1}). Otherwise give the distribution a batch of {size}, one for each "
            f"datum of the call. If the program holds parameters for {length} data, train and evaluate it "
            f"on these data at once (batch_size={length})"
        )
    else:
        remedy = (
            "declare the dimensions of one datum as event dimensions with "
            f".to_event({event_dim + max(extra, 1)}), and open the data's plate with "
            'pyro.plate("data", len(x))'
        )
    return (
        f"the {program}'s site '{name}' does not fit into plate '{plate}', "
        f"which has {size} members at dimension {dim}, so the batch shape ends with ({size},)"
        f"{' there' if dim != '-1' else ''}: the distribution's batch has {length} there{shapes}"
        f"{'' if program == 'model' else _shape_in_model(name, model, arguments)}. To mend it, {remedy}."
    )


def _shapes_of(error: BaseException | None) -> tuple[str, int, int]:
    """Find the distribution at which Pyro raised an error, in the error's frames.

    Returns:
        Its shapes in words, the number of its batch dimensions that belong to no plate, and its number of
        event dimensions.
    """
    while error is not None:
        step = error.__traceback__
        while step is not None:
            message = step.tb_frame.f_locals.get("msg")
            if isinstance(message, dict) and hasattr(message.get("fn"), "batch_shape"):
                fn = message["fn"]
                depth = max(-f.dim for f in message["cond_indep_stack"] if f.dim is not None)
                words = f" (batch shape {tuple(fn.batch_shape)}, event shape {tuple(fn.event_shape)})"
                return words, len(fn.batch_shape) - depth, fn.event_dim
            step = step.tb_next
        error = error.__cause__
    return "", 1, 0


def _shape_in_model(name: str, model: Program, arguments: Arguments) -> str:
    try:
        with torch.no_grad(), evaluating(model):
            fn = poutine.trace(model).get_trace(*arguments.args, **arguments.kwargs).nodes[name]["fn"]
    except (ValueError, RuntimeError, TypeError, KeyError):  # the model has an error of its own
        return ""
    return (
        f", while the model's '{name}' has event shape {tuple(fn.event_shape)} and batch shape "
        f"{tuple(fn.batch_shape)}"
    )
