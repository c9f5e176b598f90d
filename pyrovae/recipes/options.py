"""The options of recipes and components: name, type, default, help, group and bounds.

They are read from signatures and docstrings by `options_of`, which the command line, the configuration in
run folders, configuration files and the scikit-learn estimators all use.

An option is a keyword-only parameter with a default. Its type is int, float, bool, str, a Literal or a
tuple of these. `| None` is allowed if None is the default, and then means "not set". `annotated_types` give
bounds, as in `Annotated[int, Ge(1)]`. `Annotated[str, POSTERIORS]` names a component of a table; the
options of the chosen component join those of the recipe. Help comes from the docstring's `Args:`.

This module does not import torch, unless a function that it reads does.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt
from docstring_parser import parse

from pyrovae.errors import InputError, check_choice
from pyrovae.recipes.declaration import declaration_of
from pyrovae.recipes.own_files import is_own, load_own
from pyrovae.recipes.settings import LABELS_ONLY, SHARED, shared_names
from pyrovae.recipes.table import RECIPES
from pyrovae.tables import Table

MODEL = "Model"
"""The group of a recipe's own options and those of its components."""

_PLAIN = (int, float, bool, str)


class OfObjective:
    """The mark of an option that only weighs a term of the objective, in `Annotated[float, OfObjective()]`.

    A resumed run may change such an option.
    """


class OptionError(InputError):
    """Raised for an option that does not exist, or a value that it cannot take: an error of usage."""


@dataclass(frozen=True)
class Option:
    """One option of a recipe or a component.

    Attributes:
        name: the Python name, such as `latent_dim`.
        type: int, float, bool, str, a Literal or a tuple type, without `None` and without annotations.
        default: the value if none is given. None means "not set".
        help: one or more sentences from the docstring.
        group: "Model", "Training" or "Data".
        bounds: the limits of the value, or of a tuple's elements.
        table: the table that has the value as a name. None if the value does not name a component.
        component: the component that has the option, such as "posterior iaf". Empty for the recipe's own
            options.
        is_weight: whether the option only weighs a term of the objective.
    """

    name: str
    type: Any
    default: Any
    help: str = ""
    group: str = MODEL
    bounds: tuple[Gt | Ge | Lt | Le, ...] = ()
    table: Table[Any] | None = None
    component: str = ""
    is_weight: bool = False

    @property
    def limits(self) -> str:
        """The bounds in words, such as "at least 1 and below 10". Empty if there are none."""
        words = {Gt: "above", Ge: "at least", Lt: "below", Le: "at most"}
        return " and ".join(f"{words[type(b)]} {_limit(b)}" for b in self.bounds)

    @property
    def choices(self) -> tuple[Any, ...]:
        """The allowed values: those of a Literal, or the names in a table. Empty for other types."""
        if self.table is not None:
            return tuple(self.table)
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    def checked(self, value: Any, source: str = "") -> Any:
        """Check a value and convert it to the option's type: an int to a float, a list to a tuple.

        Args:
            value: a value from Python, JSON, TOML or the shell.
            source: the file that the value comes from, for the message.

        Raises:
            OptionError: the value has the wrong type, is out of bounds or is not an allowed choice. The
                message names source, option, value and the expectation.
        """
        where = f"{source}: {self.name}" if source else self.name
        if value is None and self.default is None:
            return None
        if self.table is not None and isinstance(value, str):
            if not is_own(value):
                self._check_choice(where, value)
            return value
        if get_origin(self.type) is Literal:
            self._check_choice(where, value)
            return value
        converted = _converted(value, self.type)
        if converted is None:
            raise OptionError(f"{where} is {value!r}; it must be {_in_words(self.type)}.")
        for element in converted if isinstance(converted, tuple) else (converted,):
            if not all(_holds(bound, element) for bound in self.bounds):
                raise OptionError(f"{where} is {value!r}; it must be {self.limits}.")
            if type(element) is float and not math.isfinite(element):
                raise OptionError(f"{where} is {value!r}; it must be a finite number.")
            if type(element) is int and not -(2**63) <= element < 2**63:
                raise OptionError(f"{where} is {value!r}; it must fit into 64 bits.")
        return converted

    def _check_choice(self, where: str, value: Any) -> None:
        if value in self.choices:
            return
        kind = self.table.kind if self.table is not None else f"value of {where}"
        if self.table is not None and where != self.name:
            kind = f"{where.removesuffix(self.name)}{kind}"
        try:
            check_choice(kind, value, [str(choice) for choice in self.choices])
        except InputError as error:
            own = " Name your own as FILE.py:NAME." if self.table is not None else ""
            raise OptionError(f"{error}{own}") from None


def options_of(recipe: Callable[..., Any], chosen: Mapping[str, Any] | None = None) -> dict[str, Option]:
    """Collect all options of a recipe by name: its own, its components', and those of training and data.

    Args:
        recipe: the recipe, a function `recipe(about, *, ...)`.
        chosen: the known values of options. Other options have their defaults. The components that these
            values name decide which components' options are collected.

    Raises:
        OptionError: the recipe breaks the rules for options. The message names recipe and option.

    Example:
        >>> from pyrovae import recipes
        >>> options = recipes.options_of(recipes.vae, {"posterior": "iaf"})
        >>> options["flow_steps"].default, options["epochs"].group
        (4, 'Training')
    """
    options = model_options(recipe, chosen)
    declared = declaration_of(recipe)
    for group in SHARED:
        for name, option in shared_options(group, declared.learns_from_some, declared.defaults).items():
            if name in options:
                owner = options[name].component or f"the recipe {name_of(recipe)}"
                raise OptionError(
                    f"{owner} has an option {name}, which all recipes share ({group}): rename it. To "
                    f"change the default of the shared option, use @recipe({name}=...)."
                )
            options[name] = option
    return options


def shared_options(
    group: str, classes: bool = True, defaults: Mapping[str, Any] | None = None
) -> dict[str, Option]:
    """Collect the options of `Training` or `Data` by name.

    Args:
        group: "Training" or "Data".
        classes: whether the recipe's model has classes. If not, options about labels are left out.
        defaults: the recipe's own defaults by name.
    """
    cls = SHARED[group]
    shown = shared_names(cls, classes)
    return {
        option.name: replace(option, default=(defaults or {}).get(option.name, option.default))
        for option in _read(cls, group, lambda p: p.name in shown)
    }


def model_options(recipe: Callable[..., Any], chosen: Mapping[str, Any] | None = None) -> dict[str, Option]:
    """Collect the options of a recipe in the group "Model": its own and those of its components.

    Args:
        recipe: the recipe, a function `recipe(about, *, ...)`.
        chosen: the known values of options. Other options have their defaults.

    Raises:
        OptionError: the recipe breaks the rules for options.
    """
    options = {option.name: option for option in own_options(recipe)}
    naming = [(option, option.table) for option in options.values() if option.table is not None]
    for option, table in naming:
        for added in component_options(table, (chosen or {}).get(option.name, option.default)):
            if added.name in options:
                other = options[added.name].component or f"the recipe {name_of(recipe)}"
                raise OptionError(
                    f"the {added.component} has an option {added.name}, and {other} has one of the same "
                    "name: rename one of them."
                )
            options[added.name] = added
    return options


def own_options(function: Callable[..., Any]) -> list[Option]:
    """Collect the options in the signature of a function or class."""
    return list(_read(function, MODEL, lambda p: p.kind is p.KEYWORD_ONLY))


def component_options(table: Table[Any], name: str) -> list[Option]:
    """Collect the options that a component adds: its keyword-only parameters that have a default.

    Args:
        table: the table of its kind.
        name: a name in the table, or `"file.py:Name"`.

    Raises:
        InputError: there is no such component.
        OptionError: its options break the rules.
    """
    if not is_own(name) and not table[name].options:
        return []  # without an import of the component
    component = load_component(table, name)
    read = _read(component, MODEL, lambda p: p.kind is p.KEYWORD_ONLY and p.default is not p.empty)
    return [replace(option, component=f"{table.kind} {name}") for option in read]


def load_component(table: Table[Any], name: str) -> Callable[..., Any]:
    """Import a component by its name in a table, or from the user's own file, `"file.py:Name"`."""
    component: Callable[..., Any] = load_own(name).value if is_own(name) else table[name].load()
    return component


def check_names(
    recipe: Callable[..., Any], given: Iterable[str], options: Mapping[str, Option], source: str = ""
) -> None:
    """Refuse names that are not options of a recipe.

    Args:
        recipe: the recipe.
        given: the names.
        options: the recipe's options.
        source: the file that the names come from, for the message.

    Raises:
        OptionError: a name is not an option. The message says which component has it, or suggests a name.
    """
    for name in given:
        if name in options:
            continue
        where = f"{source}: " if source else ""
        for option in options.values():
            owners = [n for n, row in (option.table or {}).items() if name in row.options and n != "auto"]
            if owners:
                raise OptionError(
                    f"{where}{name} needs {option.name} {' or '.join(owners)}: choose such a "
                    f"{option.name}, or leave {name} out."
                )
        if others := _recipes_with(name):
            raise OptionError(
                f"{where}{name_of(recipe)} has no option {name}: leave it out, or choose "
                f"{' or '.join(others)}, which has it."
            )
        try:
            check_choice(f"option of {name_of(recipe)}", name, options)
        except InputError as error:
            raise OptionError(f"{where}{error}") from None


def checked_options(
    recipe: Callable[..., Any], values: Mapping[str, Any], options: Mapping[str, Option], source: str = ""
) -> dict[str, Any]:
    """Check names and values of a recipe's options, and convert the values to their types.

    Args:
        recipe: the recipe.
        values: the values by name.
        options: the recipe's options.
        source: the file that the values come from, for messages.

    Raises:
        OptionError: a name is not an option, or a value does not fit.
    """
    check_names(recipe, values, options, source)
    return {name: options[name].checked(value, source) for name, value in values.items()}


def name_of(recipe: Callable[..., Any]) -> str:
    """Return the name of a recipe for messages."""
    return declaration_of(recipe).name or getattr(recipe, "__name__", str(recipe))


def summary_of(recipe: Callable[..., Any]) -> str:
    """Return the first line of a recipe's docstring."""
    return parse(inspect.getdoc(recipe) or "").short_description or ""


def _recipes_with(name: str) -> list[str]:
    """Return the recipes of the table that have an option of this name: their own, or one about labels."""
    recipes = {known: row.load() for known, row in RECIPES.items()}
    return [
        known
        for known, recipe in recipes.items()
        if name in {option.name for option in own_options(recipe)}
        or (name in LABELS_ONLY and declaration_of(recipe).learns_from_some)
    ]


def _read(
    function: Callable[..., Any], group: str, wanted: Callable[[inspect.Parameter], bool]
) -> Iterator[Option]:
    """Read the wanted parameters of a function or class as options."""
    name = getattr(function, "__name__", str(function))
    parameters = [p for p in inspect.signature(function).parameters.values() if wanted(p)]
    if not parameters:
        return
    hints = _hints(function, [p.name for p in parameters])
    docs = {d.arg_name: d.description or "" for d in parse(_docstring(function)).params}
    for parameter in parameters:
        if parameter.name not in hints:
            raise OptionError(
                f"{name}: the option {parameter.name} has no type: annotate it, for example int."
            )
        if parameter.default is parameter.empty:
            raise OptionError(f"{name}: the option {parameter.name} has no default: give it one.")
        bare, marks, optional = _unwrapped(hints[parameter.name])
        if not _allowed(bare) or optional is not (parameter.default is None):
            raise OptionError(
                f"{name}: the option {parameter.name} is of type {hints[parameter.name]} with the default "
                f"{parameter.default!r}; the type must be int, float, bool, str, a Literal or a tuple of "
                "these, with `| None` if the default is None, and only then."
            )
        yield Option(
            parameter.name,
            bare,
            parameter.default,
            " ".join(docs.get(parameter.name, "").split()),
            group,
            tuple(_bounds(marks)),
            next((mark for mark in marks if isinstance(mark, Table)), None),
            is_weight=any(isinstance(mark, OfObjective) for mark in marks),
        )


def _hints(function: Callable[..., Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the types of the named parameters. Other annotations are not evaluated."""
    source = function.__init__ if inspect.isclass(function) and "__init__" in vars(function) else function
    source = inspect.unwrap(source)
    found = {name: source.__annotations__[name] for name in names if name in source.__annotations__}
    try:
        return get_type_hints(
            types.SimpleNamespace(__annotations__=found), source.__globals__, include_extras=True
        )
    except NameError as error:
        raise OptionError(
            f"{getattr(function, '__name__', function)}: the type {error.name!r} of an option is not known "
            "when the program runs: import it outside of `if TYPE_CHECKING:`."
        ) from error


def _docstring(function: Callable[..., Any]) -> str:
    documents = [inspect.getdoc(function)]
    if inspect.isclass(function):
        documents.append(inspect.getdoc(function.__init__))
    return next((text for text in documents if text and "Args:" in text), documents[0] or "")


def _unwrapped(hint: Any) -> tuple[Any, list[Any], bool]:
    """Return the type without annotations and None, the annotations, and whether None was allowed."""
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        bare, more, optional = _unwrapped(inner)
        return bare, [*marks, *more], optional
    if get_origin(hint) in (Union, types.UnionType):
        members = [member for member in get_args(hint) if member is not type(None)]
        if len(members) == 1:
            bare, marks, _ = _unwrapped(members[0])
            return bare, marks, True
    if get_origin(hint) is tuple:
        elements = [_unwrapped(element) for element in get_args(hint) if element is not ...]
        bare_elements = [bare for bare, _, _ in elements]
        ends = (...,) if ... in get_args(hint) else ()
        marks = [mark for _, found, _ in elements for mark in found]
        return types.GenericAlias(tuple, (*bare_elements, *ends)), marks, False
    return hint, [], False


def _allowed(bare: Any) -> bool:
    if get_origin(bare) is tuple:
        return all(element is ... or _allowed(element) for element in get_args(bare))
    if get_origin(bare) is Literal:
        return all(type(choice) in _PLAIN for choice in get_args(bare))
    return bare in _PLAIN


def _bounds(marks: Iterable[Any]) -> Iterator[Gt | Ge | Lt | Le]:
    for mark in marks:
        if isinstance(mark, Gt | Ge | Lt | Le):
            yield mark
        elif isinstance(mark, Interval):
            yield from (part for part in mark if isinstance(part, Gt | Ge | Lt | Le))


def _limit(bound: Gt | Ge | Lt | Le) -> Any:
    return (
        next(iter(vars(bound).values()))
        if hasattr(bound, "__dict__")
        else getattr(bound, bound.__slots__[0])
    )


def _holds(bound: Gt | Ge | Lt | Le, value: Any) -> bool:
    limit = _limit(bound)
    if isinstance(bound, Gt):
        return bool(value > limit)
    if isinstance(bound, Ge):
        return bool(value >= limit)
    return bool(value < limit) if isinstance(bound, Lt) else bool(value <= limit)


def _converted(value: Any, wanted: Any) -> Any:
    """Return the value in the wanted type, or None if it does not fit."""
    if get_origin(wanted) is tuple:
        if not isinstance(value, list | tuple):
            return None
        kinds = get_args(wanted)
        if ... in kinds:
            kinds = (kinds[0],) * len(value)
        elements = tuple(_converted(v, k) for v, k in zip(value, kinds, strict=False))
        return None if len(kinds) != len(value) or None in elements else elements
    if get_origin(wanted) is Literal:
        return value if value in get_args(wanted) else None
    if wanted is float and type(value) is int:
        return float(value) if abs(value) < 2**1000 else math.inf
    return value if type(value) is wanted else None


def _in_words(wanted: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
    return words.get(wanted) or f"of type {wanted}"
