"""Choose the calls of a program that show all of its diagram: on labelled and on unlabelled data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyrovae.data.checks import UNLABELLED, check_classes
from pyrovae.programs.rows import Arguments

Call = tuple[tuple[Any, ...], dict[str, Any]]


def calls_for(
    args: tuple[Any, ...], kwargs: dict[str, Any], given: Mapping[str, Any] | None = None
) -> list[Call]:
    """Split a call on partly labelled data into a call on the labelled and one on the unlabelled data.

    Args:
        args: the positional arguments of a program.
        kwargs: its keyword arguments.
        given: what is given beside the data and their classes, as further keyword arguments.

    Returns:
        If the arguments are data and, last, their classes `(N,)`, and some classes are -1: the call with
        the labelled data and their classes, if there are any, and the call with the unlabelled data alone.
        Otherwise the one call with the arguments as they are.

    Raises:
        InputError: some classes are -1, and there is not one class for each datum, or one is below -1.
    """
    given = given or {}
    named: dict[Any, Any] = dict(enumerate(args)) | kwargs
    last = [key for key in named if key in kwargs or key == len(args) - 1]
    classes = next((key for key in reversed(last) if _are_partly_unlabelled(named[key])), None)
    if len(named) != 2 or classes is None:
        return [(args, {**kwargs, **given})]
    y, x = named.pop(classes), next(iter(named.values()))
    if not isinstance(x, Tensor) or x.dim() == 0:
        return [(args, {**kwargs, **given})]
    check_classes(y, len(x))
    calls = []
    if (labelled := (y != UNLABELLED)).any():
        calls.append(_with_rows(labelled, args, {**kwargs, **given}))
    without = {name: value for name, value in kwargs.items() if name != classes}
    calls.append(_with_rows(~labelled, args if classes in kwargs else args[:-1], {**without, **given}))
    return calls


def _are_partly_unlabelled(y: Any) -> bool:
    if not isinstance(y, Tensor) or y.dim() != 1 or y.is_floating_point() or y.is_complex():
        return False
    return bool((y == UNLABELLED).any())


def _with_rows(rows: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    cut = Arguments(args, kwargs).of_data(lambda values: values[rows.to(values.device)])
    return cut.args, dict(cut.kwargs)
