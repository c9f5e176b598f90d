"""What is given to a pair beside the data and their classes: `given={"c": c}`.

Both programs get it by keyword: `model(x, c=c)`, or `model(x, y, c=c)` with classes. A tensor whose first
size is N has a row for each of N data, so it is cut and repeated with the data. All else passes whole: a
tensor of another length, a number, a graph. It is bound to the programs, so that nothing takes it for rows
where a minibatch happens to have its length. A table that may happen to have N rows is given as
`Whole(table)`, which passes whole always.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyrovae.compute.devices import moved
from pyrovae.data.checks import check_data, holds_classes
from pyrovae.errors import InputError
from pyrovae.programs.classes import one_hot_size
from pyrovae.programs.devices import device_of
from pyrovae.programs.pair import ModelAndGuide, Program, with_programs
from pyrovae.programs.rows import Arguments, Whole
from pyrovae.programs.signatures import parameters_of


class Given(NamedTuple):
    """What is given beside the data.

    Attributes:
        rows: the tensors with a row for each datum, `(N, ...)`, by name.
        whole: all else, by name.
    """

    rows: dict[str, Tensor]
    whole: dict[str, Any]

    def bound_to(self, pair: ModelAndGuide, device: torch.device) -> ModelAndGuide:
        """Return the pair with what passes whole bound to both programs, its tensors on the device."""
        if not self.whole:
            return pair
        whole = moved(self.whole, device)
        return with_programs(pair, partial(pair.model, **whole), partial(pair.guide, **whole))


NOTHING_GIVEN = Given({}, {})


def given_of(
    pair: ModelAndGuide,
    given: Mapping[str, Any] | None,
    num_data: int,
    with_classes: bool = False,
    also: Collection[str] = (),
) -> Given:
    """Check what is given beside the data, and split it into rows and all else.

    Args:
        pair: the pair that gets it.
        given: the values by the names of the programs' arguments, `Whole(value)` for one that passes whole
            in any case. None means nothing.
        num_data: N, the number of data.
        with_classes: whether the programs are called with classes too.
        also: the names of what the programs get by keyword otherwise.

    Raises:
        InputError: `given` is no mapping; a program does not take a name of it, takes the data or the
            classes by this name, or needs another argument; or a value has NaN, requires a gradient, or has
            N rows and is no tensor.
    """
    given = {} if given is None else given
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InputError(
            f"given is {_kind(given)}; expected a mapping from the names of the programs' arguments to "
            'their values: write given={"c": c}.'
        )
    _check_names(pair, {*also, *given}, with_classes)
    rows: dict[str, Tensor] = {}
    whole: dict[str, Any] = {}
    for name, value in given.items():
        is_whole = isinstance(value, Whole)
        value = value.value if is_whole else value
        if isinstance(value, Tensor):
            check_value(name, value)
        elif not is_whole:
            _check_no_rows(name, value, num_data)
        has_rows = not is_whole and isinstance(value, Tensor) and value.dim() and len(value) == num_data
        (rows if has_rows else whole)[name] = value
    return Given(rows, whole)


def with_given(
    pair: ModelAndGuide, x: Tensor, y: Tensor | None, given: Mapping[str, Any] | None
) -> tuple[ModelAndGuide, Arguments]:
    """Check data, their classes and what is given beside them, and return the arguments of a call.

    Args:
        pair: a pair.
        x: the data, `(N, *x_shape)`.
        y: classes `(N,)`, or None.
        given: further arguments of both programs by name, or None.

    Returns:
        The pair with what passes whole bound to its programs, and the arguments, all with N rows. Classes
        of any whole type are 64-bit integers, which torch's functions of classes need, or one-hot rows
        `(N, C)` if the programs take these.

    Raises:
        InputError: the data are not usable, or for the reasons given at `given_of`.
    """
    check_data(x, y, given=given)
    found = given_of(pair, given, len(x), with_classes=y is not None)
    device = device_of(pair, otherwise=x.device)
    pair = found.bound_to(pair, device)
    return pair, with_classes_of(pair, Arguments((x,), found.rows), y)


def with_classes_of(pair: ModelAndGuide, data: Arguments, y: Tensor | None) -> Arguments:
    """Return the arguments of a call with classes, in the form that the programs take; see `with_given`.

    Raises:
        InputError: the classes are one-hot rows, and the programs take whole numbers.
    """
    if y is None:
        return data
    one = data.rows(slice(1)).to(device_of(pair, otherwise=data.args[0].device))
    num_classes = one_hot_size(pair, y, one)
    if holds_classes(y):
        y = y.long()
    if num_classes is not None:
        y = one_hot(y, num_classes).to(data.args[0])
    return data._replace(args=(*data.args, y))


def with_bound(program: Program, arguments: Arguments) -> Arguments:
    """Return the arguments with those that `Given.bound_to` has bound to a program."""
    return arguments._replace(kwargs={**getattr(program, "keywords", {}), **arguments.kwargs})


def _check_names(pair: ModelAndGuide, names: Collection[str], with_classes: bool) -> None:
    """Refuse names that a program does not take by keyword, and a program that needs further arguments."""
    for role, program in (("model", pair.model), ("guide", pair.guide)):
        parameters = parameters_of(program)
        if parameters is None:
            continue
        for name in sorted(names):
            if problem := _problem(role, parameters, name, with_classes):
                raise InputError(problem)
        needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind in _NAMED]
        needed = [n for n in needed if n not in (*[*parameters][: 2 if with_classes else 1], *names)]
        if needed:
            is_second = needed[0] == [*parameters][1] and not with_classes
            classes = " (classes y can be given behind x instead)" if is_second else ""
            raise InputError(
                f"the {role} needs its argument '{needed[0]}', which has no default: give it by "
                f'given={{"{needed[0]}": {needed[0]}}}{classes}.'
            )


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _problem(
    role: str, parameters: Mapping[str, inspect.Parameter], name: str, with_classes: bool
) -> str | None:
    positional = [
        n for n, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    by_position = positional[: 2 if with_classes else 1]
    if name in by_position:
        what = "the data" if name == by_position[0] else "the classes y"
        return (
            f"given has '{name}', but the {role} gets {what} as its argument '{name}', by position: name "
            f"the condition otherwise, or write {role}({'x, y' if with_classes else 'x'}, ...) with a "
            "further argument for it."
        )
    taken = name in parameters and parameters[name].kind in _NAMED
    if taken or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    known = ", ".join(parameters) or "none"
    return (
        f"given has '{name}', which the {role} does not take (its arguments are {known}), but both "
        f"programs get what is given, by keyword: write {role}({known}, {name}), or leave it out of given."
    )


def check_value(name: str, value: Tensor) -> None:
    """Refuse a tensor that requires a gradient, or holds NaN.

    Args:
        name: its name in `given`.
        value: the tensor.

    Raises:
        InputError: it is such a tensor.
    """
    if value.requires_grad:
        raise InputError(f"given['{name}'] requires a gradient: give {name}.detach().")
    if value.is_floating_point() and (missing := value.isnan()).any():
        first = missing.reshape(len(value) if value.dim() else 1, -1).any(1).nonzero()[0]
        raise InputError(
            f"given['{name}'] has {int(missing.sum())} NaN, the first at index {int(first)}: fill them in "
            f"by {name}.nan_to_num(), and tell the programs by another mask where values were missing, "
            f'given={{"{name}": {name}.nan_to_num(), "missing": {name}.isnan()}}.'
        )


def _check_no_rows(name: str, value: Any, num_data: int) -> None:
    """Refuse a list or an array with a value for each datum: only tensors are cut with the data."""
    if not isinstance(value, str | bytes | Mapping) and _length(value) == num_data > 1:
        raise InputError(
            f"given['{name}'] is {_kind(value)} of {num_data} values, as many as there are data, but "
            "only tensors are cut with the data: use torch.as_tensor on it, or Whole(...) of "
            "pyrovae.programs if it belongs to no datum."
        )


def _length(value: Any) -> int | None:
    try:
        return len(value)
    except TypeError:
        return None


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
