"""The commands whose options are those of a recipe: `train MODEL`, `sweep MODEL` and `branch RUN`."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from pyrovae.compute.memory import in_words
from pyrovae.errors import InputError
from pyrovae.recipes.options import (
    MODEL,
    Option,
    OptionError,
    check_names,
    checked_options,
    options_of,
    own_options,
)
from pyrovae.recipes.own_files import is_own
from pyrovae.recipes.recipe import load_recipe
from pyrovae.recipes.settings import SHARED

GROUPS = {name: Group(name, sort_key=number) for number, name in enumerate((MODEL, *SHARED), start=1)}
RUN = Group("Run", sort_key=4)

_LARGEST = 10**6  # bytes of a configuration file

Out = Annotated[Path, Parameter(help="The run folder to write.", group=RUN)]
ConfigFile = Annotated[
    Path | None,
    Parameter(help="A TOML file with options. Options on the command line override it.", group=RUN),
]
Device = Annotated[
    str, Parameter(help="The device: auto (CUDA if available), cpu, cuda, cuda:1, ...", group=RUN)
]
Download = Annotated[
    bool,
    Parameter(
        help="Download the data set if it is not there yet.", group=RUN, negative="", show_default=False
    ),
]
TensorBoard = Annotated[
    bool,
    Parameter(
        help="Write scalars for TensorBoard. A resumed run that has some goes on with them by itself.",
        group=RUN,
        negative="",
        show_default=False,
    ),
]
TensorBoardImages = Annotated[
    int | None,
    Parameter(
        help="Write samples and reconstructions for TensorBoard too, each time after so many epochs.",
        group=RUN,
    ),
]
Quiet = Annotated[bool, Parameter(help="Show no progress bar.", group=RUN, negative="", show_default=False)]

Over = Annotated[
    tuple[str, ...],
    Parameter(
        help="An option and the values to try, as NAME=VALUE,VALUE. It may be repeated; then all "
        "combinations are trained.",
        group=RUN,
        negative="",
    ),
]
Seeds = Annotated[
    int, Parameter(help="The number of seeds for each combination. The first is --seed.", group=RUN)
]
Samples = Annotated[
    int, Parameter(help="K, the number of importance samples for each test datum.", group=RUN)
]
Jobs = Annotated[
    int | None,
    Parameter(help="The number of runs at the same time. By default one for each core.", group=RUN),
]
OwnRecipe = Annotated[
    str | None, Parameter(help="The recipe of your own that the run was trained with.", group=RUN)
]

OwnData = Annotated[
    str | None, Parameter(help="Where the run's own data lie now, if they have moved.", group=RUN)
]

_COMMON: dict[str, tuple[Any, Any]] = {"device": (Device, "auto"), "quiet": (Quiet, False)}
_NEW_RUN = {
    "out": (Out, inspect.Parameter.empty),
    "config": (ConfigFile, None),
    "download": (Download, False),
    **_COMMON,
}


@dataclass(frozen=True)
class RecipeCommand:
    """A command whose options are those of a recipe, and some of its own.

    Attributes:
        name: its name.
        options: its own options: the annotation and the default of each.
        groups: the groups of a recipe's options that it takes.
    """

    name: str
    options: Mapping[str, tuple[Any, Any]]
    groups: tuple[str, ...] = tuple(GROUPS)


TRAIN = RecipeCommand(
    "train",
    {**_NEW_RUN, "tensorboard": (TensorBoard, False), "tensorboard_images": (TensorBoardImages, None)},
)
SWEEP = RecipeCommand(
    "sweep",
    {
        **_NEW_RUN,
        "over": (Over, ()),
        "seeds": (Seeds, 3),
        "num_samples": (Samples, 500),
        "jobs": (Jobs, None),
    },
)
BRANCH = RecipeCommand(
    "branch",
    {
        "out": (Out, inspect.Parameter.empty),
        "recipe": (OwnRecipe, None),
        "data": (OwnData, None),
        **_COMMON,
    },
    (MODEL, "Training"),
)


def branch_command(run: str, words: Sequence[str] = ()) -> Callable[..., None]:
    """Make the command that begins a new run at another run's parameters.

    Args:
        run: the folder of the other run.
        words: the words after it.

    Raises:
        InputError: it is not a run folder, or was trained with a recipe of the user's own that is not
            named.
    """
    from pyrovae.runs import RunFolder

    config = RunFolder(Path(run)).configuration
    name = _word_after(words, "recipe") or config.recipe
    if is_own(config.recipe) and not _word_after(words, "recipe"):
        raise InputError(
            f"{run} was trained with a file of your own, {config.recipe}. No file is executed only because "
            f"a run folder names it: name it again by --recipe {config.recipe}."
        )
    chosen = {option: value for option, value in config.options.items() if not is_own(value)}
    return recipe_command(BRANCH, name, words, chosen, first=run)


def recipe_command(
    command: RecipeCommand,
    name: str,
    words: Sequence[str] = (),
    chosen: Mapping[str, Any] | None = None,
    first: str | None = None,
) -> Callable[..., None]:
    """Make a command of a recipe: a function whose signature has the recipe's options.

    Args:
        command: the command.
        name: a name in `RECIPES`, or `"mine.py:build"`.
        words: the words after the name. They name the chosen components and the configuration file.
        chosen: the components that are chosen otherwise, by the names of their options.
        first: the first argument of the function that runs the command; by default the recipe's name.

    Raises:
        InputError: there is no such recipe, or its options break the rules.
        OptionError: the configuration file has a key or a value that does not fit.
    """
    recipe = load_recipe(name)
    file = _word_after(words, "config")
    from_file = {} if file is None else read_config(Path(file))
    naming = [option for option in own_options(recipe) if option.table is not None]
    for option in naming:
        if option.name in from_file:
            option.checked(from_file[option.name], str(file))
    options = options_of(recipe, dict(chosen or {}) | from_file | dict(_components_in(words, naming)))
    options = {n: option for n, option in options.items() if option.group in command.groups}
    if taken := [option for option in options if option in command.options]:
        raise OptionError(
            f"{name} has an option {taken[0]}, but the command {command.name} has an option --{taken[0]}: "
            "rename the recipe's option."
        )
    from_file = checked_options(recipe, from_file, options, str(file))
    check_names(recipe, _unknown_flags(words, command, options), options)

    def run(*, out: Path, config: Path | None = None, **given: Any) -> None:
        from pyrovae.cli import training

        how = {option: given.pop(option) for option in [*given] if option in command.options}
        values = from_file | checked_options(recipe, given, options)
        by_group = {
            group: {n: v for n, v in values.items() if options[n].group == group} for group in GROUPS
        }
        getattr(training, command.name)(name if first is None else first, by_group, out, **how)

    parameters = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for n, (annotation, default) in {
            **command.options,
            **{
                option.name: (annotation_of(option, GROUPS[option.group]), option.default)
                for option in options.values()
            },
        }.items()
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = _without_arguments(inspect.getdoc(recipe) or "")
    return run


def read_config(path: Path) -> dict[str, Any]:
    """Read options from a TOML file: its top level, and its tables [model], [training] and [data].

    In keys, dashes and underscores mean the same.

    Args:
        path: the file.

    Raises:
        OptionError: the file cannot be read, is no ordinary file or too large, it is not TOML, or it gives
            an option twice.
    """
    try:
        if path.exists() and not path.is_file():  # a device may have no end
            raise OptionError(f"{path} is not an ordinary file: give a TOML file.")
        with open(path, "rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise OptionError(f"{path} has more than {in_words(_LARGEST)}: give a TOML file of options.")
        content = tomllib.loads(text.decode())
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is not TOML: {error}.") from None
    tables = {group.lower() for group in GROUPS}
    options: dict[str, Any] = {}
    for key, value in content.items():
        inner = value if isinstance(value, dict) and key.lower() in tables else {key: value}
        for name, each in inner.items():
            if (plain := name.replace("-", "_")) in options:
                raise OptionError(f"{path}: {name} is given twice: keep one of them.")
            options[plain] = each
    return options


def _components_in(words: Sequence[str], options: Sequence[Option]) -> Iterator[tuple[str, str]]:
    """Yield the options that name components, with their values among the words."""
    for option in options:
        if (value := _word_after(words, option.name)) is not None:
            option.checked(value)
            yield option.name, value


def _unknown_flags(
    words: Sequence[str], command: RecipeCommand, options: Mapping[str, Option]
) -> list[str]:
    """Return the options among the words that the command lacks, so that an error can say what has them."""
    known = {*options, *command.options, "help", "version"}
    known |= {f"no_{name}" for name, option in options.items() if option.type is bool}
    flags = (word.partition("=")[0] for word in words if word.startswith("--") and len(word) > 2)
    names = (flag[2:].replace("-", "_") for flag in flags)
    return [name for name in names if name not in known]


def _word_after(words: Sequence[str], name: str) -> str | None:
    """Return the value of the option `--name` among the words. The last one counts, as in parsing."""
    flags = {f"--{name}", f"--{name.replace('_', '-')}"}
    found = None
    for number, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag in flags:
            found = value if equals else next(iter(words[number + 1 : number + 2]), None)
    return found


def annotation_of(option: Option, group: Group) -> Any:
    """Return the annotation of a parameter of a command that stands for an option.

    Args:
        option: the option.
        group: its group in help.
    """
    kind = option.type if option.default is not None else option.type | None
    return Annotated[
        kind,
        Parameter(
            help=_help(option),
            group=group,
            negative_iterable="",
            show_choices=option.table is None,
        ),
    ]


def _help(option: Option) -> str:
    parts = [option.help]
    if option.table is not None:
        parts.append(f"One of {', '.join(option.choices)}, or your own as FILE.py:NAME.")
    if option.limits:
        parts.append(f"{option.limits.capitalize()}.")
    if option.component:
        parts.append(f"(For {option.component}.)")
    return " ".join(part for part in parts if part)


def _without_arguments(docstring: str) -> str:
    return docstring.partition("\nArgs:")[0].strip()


def is_model(word: str) -> bool:
    """Whether a word can be the name of a model, rather than an option."""
    return bool(word) and (not word.startswith("-") or is_own(word))


def check_model(name: str, known: Mapping[str, Any]) -> None:
    """Refuse an unknown model before any recipe is imported.

    Raises:
        OptionError: the name is not known.
    """
    if is_own(name):
        return
    try:
        known[name]
    except InputError as error:
        raise OptionError(f"{error} Name a recipe of your own as FILE.py:FUNCTION.") from None
