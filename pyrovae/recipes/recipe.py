"""Recipes: functions that build a model from options, and the plan of its training."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ParamSpec

from pyrovae.likelihoods.table import LIKELIHOODS
from pyrovae.recipes.about import About
from pyrovae.recipes.declaration import ATTRIBUTE, Declaration, declaration_of
from pyrovae.recipes.options import OptionError, checked_options, model_options, name_of, own_options
from pyrovae.recipes.own_files import is_own, load_own
from pyrovae.recipes.plan import Plan
from pyrovae.recipes.settings import SHARED, shared_names
from pyrovae.recipes.table import RECIPES

P = ParamSpec("P")


def recipe(
    *without_parentheses: Any,
    classes: bool = False,
    needs_classes: bool = False,
    name: str = "",
    **defaults: Any,
) -> Callable[[Callable[P, Plan]], Callable[P, Plan]]:
    """Declare a function to be a recipe.

    A recipe is called as `build(about, *, option=default, ...)` and returns a `Plan`. Each
    call checks all options. It draws initial parameters with the seed `about.seed`, and does not change the
    caller's random stream.

    Args:
        classes: whether the model learns classes. Only then does the recipe have options about labels.
        needs_classes: whether the model needs the class of each datum. Then no labels can be hidden, and
            the recipe has no options about labels.
        name: the recipe's name. Empty means the function's.
        defaults: the recipe's own defaults for options of `Training` and `Data`, by name.

    Raises:
        OptionError: a default is for an option that `Training` and `Data` do not have, or the decorator is
            written without parentheses.

    Example:
        >>> from pyrovae.recipes import Plan, Stage, recipe
        >>> @recipe(epochs=20)
        ... def build(about, *, width: int = 64) -> Plan:
        ...     '''My model.
        ...
        ...     Args:
        ...         width: The width of the hidden layer.
        ...     '''
        ...     return Plan([Stage(MyModel(about.x_shape, width))])
    """

    if without_parentheses:
        raise OptionError("the decorator recipe has no parentheses: write @recipe() above the function.")

    def declare(function: Callable[P, Plan]) -> Callable[P, Plan]:
        declaration = Declaration(name or function.__name__, classes, needs_classes, defaults)

        @functools.wraps(function)
        def build(*args: P.args, **kwargs: P.kwargs) -> Plan:
            about = args[0] if args else kwargs.get("about")
            if not isinstance(about, About):
                raise OptionError(
                    f"the recipe {declaration.name} was given a {type(about).__name__} for `about`; "
                    f"expected the facts about the data: write {declaration.name}(About.of(x), ...)."
                )
            return _built(build, function, about, {n: v for n, v in kwargs.items() if n != "about"})

        setattr(build, ATTRIBUTE, declaration)
        known = [option for cls in SHARED.values() for option in shared_names(cls)]
        if unknown := defaults.keys() - set(known):
            raise OptionError(
                f"the recipe {declaration.name} declares a default for {min(unknown)}, which is not an "
                f"option that all recipes share: choose from {', '.join(known)}. Give an option of its own "
                "the default in its signature."
            )
        return build

    return declare


def load_recipe(name: str) -> Callable[..., Plan]:
    """Import a recipe by its name in `RECIPES`, or from the user's own file, `"mine.py:build"`.

    Raises:
        InputError: there is no such recipe.
    """
    if not is_own(name):
        found: Callable[..., Plan] = RECIPES[name].load()
        return found
    function = load_own(name).value
    if not inspect.isfunction(function) or not inspect.signature(function).parameters:
        kind = "a class" if inspect.isclass(function) else "no function with a parameter"
        raise OptionError(
            f"{name} is {kind}, but a recipe is a function build(about, *, option=default, ...) that "
            "returns a Plan. Name a posterior, prior, likelihood or network of your own by its option, for "
            f"example --posterior {name}."
        )
    declared = declaration_of(function)
    plain = getattr(function, "__wrapped__", function) if declared.name else function
    return recipe(
        classes=declared.classes, needs_classes=declared.needs_classes, name=name, **declared.defaults
    )(plain)


_LARGE = 4096  # an option from which on the size of a model is looked at before it is made


def _built(
    build: Callable[..., Plan], function: Callable[..., Plan], about: About, given: dict[str, Any]
) -> Plan:
    from pyrovae.compute.devices import seeded
    from pyrovae.compute.memory import memory_explained

    if not about.x_shape:
        raise OptionError(
            f"a datum is a single number, but the recipe {name_of(build)} builds networks of vectors and "
            "images: give x[:, None], of shape (N, 1)."
        )
    given = _with_likelihood(build, about, given)
    options = model_options(build, given)
    values = {name: option.default for name, option in options.items()}
    values |= checked_options(build, given, options)
    sizes = {name: value for name, value in values.items() if type(value) is int}
    largest = max(sizes, key=lambda name: sizes[name], default="model")
    with (
        memory_explained(f"the model, whose {largest} is {sizes.get(largest)}", largest),
        seeded(about.seed),
    ):
        if sizes and sizes[largest] >= _LARGE:
            _check_fits(
                function, about, values, f"the model, whose {largest} is {sizes[largest]},", largest
            )
        plan = function(about, **values)
    if not isinstance(plan, Plan):
        raise OptionError(
            f"the recipe {name_of(build)} returned a {type(plan).__name__}; it must return a Plan, for "
            "example Plan([Stage(pair)])."
        )
    declared = declaration_of(build)
    return replace(
        plan,
        about=about,
        recipe=declared.name,
        options=values,
        defaults=declared.defaults,
        weights=[name for name, option in options.items() if option.is_weight],
    )


def _with_likelihood(build: Callable[..., Plan], about: About, given: dict[str, Any]) -> dict[str, Any]:
    """Replace the likelihood "auto" by the name of one that the data allow, which run folders then hold.

    It is Gaussian for vectors only. Images with values outside of [0, 1] are refused later, since they are
    rather to be scaled.
    """
    chosen = {
        option.name: "bernoulli" if len(about.x_shape) > 1 or about.in_unit_interval else "gaussian"
        for option in own_options(build)
        if option.table is LIKELIHOODS and given.get(option.name, option.default) == "auto"
    }
    return given | chosen


def _check_fits(
    function: Callable[..., Plan], about: About, values: Mapping[str, Any], what: str, largest: str
) -> None:
    """Refuse a model that is too large for the memory, before it is made.

    Raises:
        InputError: its parameters, with gradients and two moments for each, do not fit.
    """
    import torch

    from pyrovae.compute.memory import check_fits, is_out_of_memory
    from pyrovae.programs.reach import modules_of

    try:
        with torch.device("meta"):  # tensors with a shape and without values
            plan = function(about, **values)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return  # a recipe may look at values; it is then built at once
    modules = {id(module): module for stage in plan.stages for module in modules_of(stage.pair)}
    parameters = {id(value): value for module in modules.values() for value in module.parameters()}
    size = 4 * sum(value.nbytes for value in parameters.values())
    check_fits(size, what, f"choose a smaller {largest}")
