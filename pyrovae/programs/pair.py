"""The pair: a model and its guide, which everything in this library takes as one argument.

A pair is any object with `model` and `guide`, both Pyro programs that are called with the data. Every class
of `pyrovae.models` is one. `Pair` joins two programs of different origin, such as a library model and your
own guide.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, TypeVar, cast

from torch import Tensor

from pyrovae.compute.memory import memory_explained
from pyrovae.compute.turns import alone
from pyrovae.data.checks import check_tensor
from pyrovae.errors import InputError

Program = Callable[..., Any]
"""A callable that runs Pyro's `sample` statements: a function, a method or a module."""

F = TypeVar("F", bound=Callable[..., Any])

_DATA = {"x", "start", "end", "corners"}
"""The arguments of functions that are tensors of data. `fit` also takes other forms of data."""

_SIZES = (
    "batch_size",
    "num_samples",
    "count",
    "candidates",
    "particles",
    "dimensions",
    "steps",
    "resolution",
)
"""The arguments of functions that take more memory if they are larger."""


class ModelAndGuide(Protocol):
    """Any object with a `model` and a `guide`."""

    @property
    def model(self) -> Program: ...

    @property
    def guide(self) -> Program: ...


@dataclass(frozen=True)
class Pair:
    """A model and a guide joined into one pair.

    Args:
        model: a Pyro program `model(x)`, or `model(x, y)` if it is called with classes.
        guide: a Pyro program with the same arguments and the model's latent sites.
        data_plate: the name of the plate over the data. None means the plate that has as many members as
            there are data, also on another number of data.
        x_shape: the shape of a datum. Only generation without data asks for it, of programs that need the
            shape. None means that of a module's likelihood, or of the site that observes the data.

    Raises:
        InputError: `model` or `guide` is not callable.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> from pyrovae.programs import Pair
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))
        >>> pair = Pair(model, guide)
    """

    model: Program
    guide: Program
    data_plate: str | None = None
    x_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for role in ("model", "guide"):
            if not callable(program := getattr(self, role)):
                raise InputError(
                    f"the {role} of a Pair is a {type(program).__name__}; expected a Pyro program, "
                    "that is, a function that is called with the data."
                )


def is_pair(candidate: object) -> TypeGuard[ModelAndGuide]:
    """Whether an object has a `model` and a `guide` that can be called."""
    return all(callable(getattr(candidate, role, None)) for role in ("model", "guide"))


def programs_of(pair: ModelAndGuide | Program) -> tuple[Program, Program | None]:
    """Return the model and the guide of a pair; for a model alone, the model and None."""
    return (pair.model, pair.guide) if is_pair(pair) else (cast(Program, pair), None)


def with_programs(pair: ModelAndGuide, model: Program | None = None, guide: Program | None = None) -> Pair:
    """Return the pair with another model or guide in the place of its own, and the same attributes."""
    x_shape = getattr(pair, "x_shape", None)
    return Pair(model or pair.model, guide or pair.guide, data_plate_of(pair), x_shape)


def with_shape_of(pair: ModelAndGuide, x: Tensor | None) -> ModelAndGuide:
    """Return the pair with the shape of data `(N, *x_shape)`, if it does not say a shape itself."""
    if x is None or getattr(pair, "x_shape", None) is not None:
        return pair
    return Pair(pair.model, pair.guide, data_plate_of(pair), tuple(x.shape[1:]))


def data_plate_of(pair: object) -> str | None:
    """Return the name in the pair's attribute `data_plate`, or None if it has none."""
    name = getattr(pair, "data_plate", None)
    return name if isinstance(name, str) else None


def name_of_pair(pair: ModelAndGuide) -> str:
    """Return the class name of the pair, or of the object whose method its model is, for messages."""
    owner = pair if not isinstance(pair, Pair) else getattr(pair.model, "__self__", pair)
    return type(owner).__name__


def takes_pair(function: F) -> F:
    """Make a public function check its argument `pair`: the first one, or the second after an objective.

    While it runs, other threads that call such functions wait; see `pyrovae.compute.turns`.

    Raises:
        InputError: the function is called with something else. For a call with two programs, as in version
            0.1, the message shows the line that replaces it.
    """
    names = list(inspect.signature(function).parameters)
    before = names[: names.index("pair")]
    data = {name for name in names if name in _DATA and function.__name__ != "fit"}
    smaller = ", ".join([name for name in names if name in _SIZES] + ["model, or number of data"])

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = [*args[len(before) :], *(kwargs[name] for name in ("pair", "model") if name in kwargs)]
        if given and not is_pair(given[0]):
            others = given[1:] or [kwargs.get("guide")]
            raise InputError(what_to_write(function.__name__, given[0], others, before))
        named = dict(zip(names, args, strict=False)) | kwargs
        for name in data & named.keys():
            check_tensor(named[name])
        if not isinstance(site := named.get("site"), str | None):
            raise InputError(f"site is {site!r}; it must be the name of a site, or None.")
        with alone(), memory_explained(function.__name__, smaller):
            return function(*args, **kwargs)

    return cast(F, checked)


def check_pair_or_program(function: str, pair: object, args: Sequence[Any]) -> None:
    """Refuse a call that gives neither a pair nor a program first, or a second program after it.

    Args:
        function: the name of the function that was called, for the message.
        pair: its first argument.
        args: the arguments after it.

    Raises:
        InputError: the call is one of these. The message shows the line to write instead.
    """
    followed_by_guide = bool(args) and (args[0] is None or callable(args[0]))
    if not is_pair(pair) and (not callable(pair) or followed_by_guide):
        raise InputError(what_to_write(function, pair, args))


def what_to_write(function: str, first: object, others: Sequence[Any], before: Sequence[str] = ()) -> str:
    """Return the message for a call whose first argument is not a pair. It shows the line to write instead.

    Args:
        function: the name of the function that was called.
        first: the argument that should be a pair.
        others: the arguments after it.
        before: the names of the arguments before the pair.
    """

    def line(pair: str) -> str:
        return f"{function}({', '.join([*before, pair])}, x, ...)"

    owner = getattr(first, "__self__", None)
    if is_pair(owner):
        return (
            f"{function} takes one pair, but was given the program "
            f"{type(owner).__name__}.{getattr(first, '__name__', 'model')}: write {line('vae')} "
            f"instead of {line('vae.model, vae.guide')}. To join programs of two objects, write "
            f"{line('Pair(vae.model, my_guide)')} with Pair from pyrovae.programs."
        )
    if callable(first):
        also = " and a guide" if others and callable(others[0]) else ""
        return (
            f"{function} takes one pair, but was given a function{also}: write "
            f"{line('Pair(model, guide)')} with Pair from pyrovae.programs."
        )
    return (
        f"{function} takes a pair, that is, an object with `model` and `guide`, but was given a "
        f"{type(first).__name__}: write {line('vae')}, or {line('Pair(model, guide)')} "
        "with Pair from pyrovae.programs."
    )
