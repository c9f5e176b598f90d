"""The estimators' parameters: the options of all recipes with classes, read from the recipes.

scikit-learn reads an estimator's parameters from its constructor's signature. The models have different
options, and different defaults for the same option. So the signature has the options of all models. Each of
them is None by default, which means the chosen model's own default.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np

from pyrovae.errors import InputError, check_choice
from pyrovae.recipes import RECIPES, Option, Plan, load_recipe, options_of
from pyrovae.recipes.declaration import declaration_of
from pyrovae.recipes.options import MODEL, checked_options, component_options
from pyrovae.sklearn.m1 import m1

Recipe = Callable[..., Plan]
Class = TypeVar("Class", bound=type)
Constructor = TypeVar("Constructor", bound=Callable[..., None])

_GIVEN_OTHERWISE = {"seed", "split_seed", "data", "labels"}  # by random_state, X and y


@functools.cache
def recipes_with_classes() -> dict[str, Recipe]:
    """Load the recipes whose models learn classes of some data, by name. M1 comes first."""
    named = {"m1": m1} | {name: load_recipe(name) for name in RECIPES}
    return {
        name: build
        for name, build in named.items()
        if name == "m1" or declaration_of(build).learns_from_some
    }


@dataclass(frozen=True)
class Settings:
    """The values that a user has given, for one model.

    Attributes:
        recipe: the model's recipe.
        options: the recipe's own options by name.
        training: the settings of `Training` by name.
        data: the settings of `Data` by name.
    """

    recipe: Recipe
    options: Mapping[str, Any]
    training: Mapping[str, Any]
    data: Mapping[str, Any]

    @classmethod
    def of(cls, model: str, values: Mapping[str, Any]) -> Settings:
        """Check values, and sort them into options, training and data.

        Args:
            model: the name of a recipe with classes.
            values: the parameters' values by name. None means the model's default.

        Raises:
            InputError: the model is not known, it lacks an option, or a value does not fit.
        """
        check_choice("model", model, recipes_with_classes())
        recipe = recipes_with_classes()[model]
        given = {name: _plain(value) for name, value in values.items() if value is not None}
        _refuse_options_of_others(model, given)
        options = options_of(recipe, given)
        checked = checked_options(recipe, given, options)

        def of_group(group: str) -> dict[str, Any]:
            return {name: value for name, value in checked.items() if options[name].group == group}

        training, data = of_group("Training"), of_group("Data")
        own = {name: value for name, value in checked.items() if name not in training | data}
        return cls(recipe, own, training, data)


@functools.cache
def options_by_name() -> dict[str, dict[str, Option]]:
    """Collect the options of all recipes with classes, and of all components that they may have.

    Returns:
        For each option's name, the option in each model that has it, by the model's name.
    """
    found: dict[str, dict[str, Option]] = {}
    for model, recipe in recipes_with_classes().items():
        options = options_of(recipe)
        components = [
            added
            for option in options.values()
            if option.table is not None
            for name, row in option.table.items()
            if row.options
            for added in component_options(option.table, name)
        ]
        for option in [*options.values(), *components]:
            if option.name not in _GIVEN_OTHERWISE:
                found.setdefault(option.name, {}).setdefault(model, option)
    return dict(sorted(found.items(), key=lambda named: next(iter(named[1].values())).group != MODEL))


def takes_options(constructor: Constructor) -> Constructor:
    """Give an estimator's constructor the options of all recipes with classes as parameters.

    They are None by default, and become attributes. The constructor's own parameters come first, and keep
    their defaults where an option has the same name. Its `**options` stays empty.

    Raises:
        TypeError: when the constructor is called with an unknown parameter.
    """
    parameters = inspect.signature(constructor).parameters.values()
    own = {p.name: p for p in parameters if p.kind is not p.VAR_KEYWORD}
    added = [name for name in options_by_name() if name not in own]

    @functools.wraps(constructor)
    def init(self: Any, *args: Any, **values: Any) -> None:
        for name in values:
            try:
                check_choice("parameter", name, [*(n for n in own if n != "self"), *added])
            except InputError as error:
                raise TypeError(f"{type(self).__name__} has no parameter {name}: {error}") from None
        constructor(self, *args, **{name: value for name, value in values.items() if name in own})
        for name in added:
            setattr(self, name, values.get(name))

    options = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in added]
    signature = inspect.Signature([*own.values(), *options])
    # inspect reads __signature__, but functions do not declare it.
    init.__signature__ = signature  # type: ignore[attr-defined]
    return cast(Constructor, init)


def documents_options(cls: Class) -> Class:
    """Replace the line `{options}` in an estimator's docstring by the help of all options."""
    own = inspect.signature(cls).parameters
    lines = [_help(name) for name in options_by_name() if own[name].default is None]
    cls.__doc__ = (cls.__doc__ or "").replace("        {options}\n", "".join(lines))
    return cls


def given_options(estimator: Any) -> dict[str, Any]:
    """Return an estimator's values of all options. None means the model's default."""
    return {name: getattr(estimator, name) for name in options_by_name()}


def _plain(value: Any) -> Any:
    """Convert a NumPy scalar, which a parameter grid may hold, to a Python value."""
    return value.item() if isinstance(value, np.generic) else value


def _refuse_options_of_others(model: str, given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        owners = options_by_name().get(name, {})
        if model not in owners:
            raise InputError(
                f"{name} is {value!r}, but the model '{model}' has no option {name}: it is an option of "
                f"{', '.join(owners)}. Leave it at None, or choose another model."
            )


def _help(name: str) -> str:
    by_model = options_by_name()[name]
    option = next(iter(by_model.values()))
    defaults = {model: option.default for model, option in by_model.items()}
    sentences = [f"{name}: {option.help.rstrip('.')}."]
    if len(by_model) < len(recipes_with_classes()):
        sentences.append(f"An option of {', '.join(by_model)}.")
    if option.component:
        sentences.append(f"An option of the {option.component} and others, with a default for each.")
    elif len({*map(repr, defaults.values())}) > 1:
        each = [f"{value!r} ({model})" for model, value in defaults.items()]
        sentences.append(f"Default: {', '.join(each)}.")
    elif option.default is not None:
        sentences.append(f"Default: {option.default!r}.")
    return (
        textwrap.fill(" ".join(sentences), 104, initial_indent=" " * 8, subsequent_indent=" " * 12) + "\n"
    )
