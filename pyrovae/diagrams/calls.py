"""Choose the calls of a program that show all of its diagram: on labelled and on unlabelled data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyrovae.data.checks import UNLABELLED, check_classes
from pyrovae.programs.rows import Arguments


def calls_for(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> list[Arguments]:
    """Split a call on partly labelled data into a call on the labelled and one on the unlabelled data.

    Args:
        args: the positional arguments of a program.
        kwargs: its keyword arguments.
        given: further keyword arguments, which are no classes. Tensors whose first size is N are cut with
            the data.

    Returns:
        If the arguments are data and, last, their classes `(N,)`, and some classes are -1: the call with
        the labelled data and their classes, if there are any, and the call with the unlabelled data alone.
        Otherwise the one call with the arguments as they are.

    Raises:
        InputError: some classes are -1, and there is not one class for each datum, or one is below -1.
    """
    named: dict[Any, Any] = dict(enumerate(args)) | dict(kwargs)
    call = Arguments(args, {**kwargs, **(given or {})})
    last = [key for key in named if key in kwargs or key == len(args) - 1]
    classes = next((key for key in reversed(last) if _are_partly_unlabelled(named[key])), None)
    if len(named) != 2 or classes is None:
        return [call]
    y, x = named.pop(classes), next(iter(named.values()))
    if not isinstance(x, Tensor) or x.dim() == 0:
        return [call]
    check_classes(y, len(x))
    labelled = (y != UNLABELLED).cpu()  # such a mask cuts tensors on any device
    without = {name: value for name, value in call.kwargs.items() if name != classes}
    unlabelled = Arguments(args if classes in kwargs else args[:-1], without)
    calls = [call.rows(labelled)] if labelled.any() else []
    return [*calls, unlabelled.rows(~labelled)]


def _are_partly_unlabelled(y: Any) -> bool:
    if not isinstance(y, Tensor) or y.dim() != 1 or y.is_floating_point() or y.is_complex():
        return False
    return bool((y == UNLABELLED).any())
