"""The program `pyrovae`: its commands, and the output of its errors and warnings.

Nothing heavy is imported before a command runs. Help, version, the list of models and shell completion need
no torch.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, NoReturn

from cyclopts import App, CycloptsError, Parameter

from pyrovae._version import __version__
from pyrovae.cli import figures, measuring, models, training
from pyrovae.cli.help import TwoColumns
from pyrovae.cli.recipe_commands import (
    SWEEP,
    TRAIN,
    RecipeCommand,
    branch_command,
    check_model,
    is_model,
    recipe_command,
)
from pyrovae.cli.streams import usable_streams
from pyrovae.compute.memory import explained, is_out_of_memory
from pyrovae.errors import CheckpointError, InputError, NonFiniteError, ProcessError, cause, one_line
from pyrovae.recipes.options import OptionError
from pyrovae.recipes.own_files import is_own
from pyrovae.recipes.table import RECIPES
from pyrovae.storage import expanded

COMMANDS: dict[str, Callable[..., None]] = {
    "resume": training.resume,
    "evaluate": measuring.evaluate,
    "compare": measuring.compare,
    "diagnose": measuring.diagnose,
    "classify": measuring.classify,
    "encode": measuring.encode,
    **figures.COMMANDS,
    "plates": models.plates,
    "models": models.models,
}
LIGHT = (models.models,)
"""The commands that need no torch."""

TRAIN_HELP = """Train a model, and write a run folder.

'pyrovae train MODEL --help' lists the options of a model. Name a recipe of your own as
FILE.py:FUNCTION.

Example: pyrovae train vae --data mnist --latent-dim 50 --width 400 --out runs/first
"""
SWEEP_HELP = """Train a model with each combination of some options and seeds, and compare the evidence.

'pyrovae sweep MODEL --help' lists the options of a model. The folder has one run for each combination. A
sweep that is run again goes on where it ended.

Example: pyrovae sweep vae --data digits --over latent-dim=2,5,10 --seeds 3 --out runs/sizes
"""
BRANCH_HELP = """Begin a new run at the parameters of another run, for example with another objective.

'pyrovae branch RUN --help' lists the options that may change.

Example: pyrovae branch runs/first --objective iwae --particles 50 --epochs 50 --out runs/iwae
"""
HELP = """Variational autoencoders as probabilistic programs.

Example: pyrovae train vae --data digits --epochs 300 --out runs/first && pyrovae evaluate runs/first
"""


def main() -> None:
    """Run the command line, and print an error that a user can correct on one line.

    The exit status is 2 for a command line that cannot be read, 130 after Ctrl-C, 143 after SIGTERM, and 1
    for all other errors.
    """
    with _warnings_in_one_line(), usable_streams() as out:
        try:
            run(sys.argv[1:])
        except (CycloptsError, OptionError) as error:
            _fail(" ".join(str(error).split()), 2)
        except (InputError, CheckpointError, NonFiniteError, ProcessError) as error:
            _fail(str(error), 1)
        except KeyboardInterrupt as error:
            goes_on = "; 'pyrovae resume' continues from the last finished epoch"
            training = sys.argv[1:2] in (["train"], ["resume"])
            _fail(f"interrupted{goes_on if training else ''}.", 128 + getattr(error, "number", 2))
        except (MemoryError, RuntimeError, ImportError, OSError) as error:
            if is_out_of_memory(error):
                smaller = "model, batch or number of data and samples"
                _fail(explained(error, " ".join(sys.argv[1:2]), smaller), 1)
            if not isinstance(error, OSError):
                raise
            _fail(f"{error.filename or 'a file'}: {cause(error)}{_remedy(error)}.", 1)
        out.flush()
        if out.failure is not None:
            closed = isinstance(out.failure, BrokenPipeError)  # as by `pyrovae models | head`
            sys.exit(1) if closed else _fail(f"standard output: {cause(out.failure)}.", 1)


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            ": free space there, or name another folder, and run the command again ('pyrovae resume' "
            "continues a training)"
        )
    return ""


def run(words: Sequence[str]) -> None:
    """Run a command in this process, and raise its errors.

    Args:
        words: the words after `pyrovae`.

    Raises:
        CycloptsError: the command line cannot be read.
        OptionError: an option does not exist, or its value does not fit.
        InputError, CheckpointError, NonFiniteError, OSError: the command fails.
    """
    words = [*map(_at_home, words)] or ["--help"]
    app = build_app(words)
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False, help_on_error=False)
    if getattr(command, "__module__", "").startswith("pyrovae.") and command not in LIGHT:
        from pyrovae.compute import processes

        with processes.joined(), redirect_stdout(sys.stdout if processes.is_first() else None):
            command(*bound.args, **bound.kwargs)
    else:
        command(*bound.args, **bound.kwargs)


def _at_home(word: str) -> str:
    """Put the user's home folder in the place of `~`, where a shell does not: in `--out=~/runs`."""
    option, equals, path = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{expanded(path)}" if path.startswith("~") else word


def build_app(words: Sequence[str]) -> App:
    """Build the program with the parts that the words need. Only the recipe that they name is imported.

    Raises:
        InputError: the words name a recipe that cannot be used.
    """
    app = App(
        "pyrovae",
        help=HELP,
        version=__version__,
        group_parameters="Options",
        default_parameter=Parameter(allow_repeating=True),  # the last one counts
        help_format="plaintext",
        help_formatter=TwoColumns(),
        result_action="return_value",
    )
    app.command(_recipe_app(TRAIN, TRAIN_HELP, words))
    app.command(_recipe_app(SWEEP, SWEEP_HELP, words))
    app.command(_branch_app(words))
    for number, (name, function) in enumerate(COMMANDS.items(), start=1):
        app.command(function, name=name, sort_key=number)
    app.register_install_completion_command(
        help="Install the completion of commands and options in the shell."
    )
    return app


def _recipe_app(command: RecipeCommand, help: str, words: Sequence[str]) -> App:
    app = App(command.name, help=help, sort_key=0)
    chosen = ""
    if words[0] == command.name and words[1:2] not in (["--help"], ["-h"]):
        if not words[1:] or not is_model(words[1]):
            raise OptionError(
                f"{command.name} needs the name of a model first: one of {', '.join(RECIPES)}, or "
                "FILE.py:FUNCTION."
            )
        chosen = words[1]
        check_model(chosen, RECIPES)
    for number, (name, row) in enumerate(RECIPES.items()):
        if name == chosen:
            app.command(recipe_command(command, name, words[2:]), name=name)
        elif words[0] == "--install-completion":
            app.command(recipe_command(command, name), name=name)
        else:
            app.command(_not_chosen, name=name, help=row.summary, sort_key=number)
    if is_own(chosen):
        app.command(recipe_command(command, chosen, words[2:]), name=chosen)
    return app


def _branch_app(words: Sequence[str]) -> App:
    app = App("branch", help=BRANCH_HELP, sort_key=1)
    if words[0] == "branch" and words[1:2] not in (["--help"], ["-h"]):
        if not words[1:] or words[1].startswith("-"):
            raise OptionError("branch needs the folder of a run first: pyrovae branch RUN --out NEW.")
        app.command(branch_command(words[1], words[2:]), name=words[1])
    return app


def _not_chosen(*words: str) -> None:
    """Do nothing. In help, this function takes the place of a recipe that is not imported."""


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        yield


def _show_warning(message: Warning | str, *rest: Any, **more: Any) -> None:
    if _process() == 0:
        print(f"warning: {one_line(str(message))}", file=sys.stderr)


def _fail(message: str, status: int) -> NoReturn:
    """Print an error and leave. Of several processes that fail together, one tells."""
    processes = sys.modules.get("pyrovae.compute.processes")
    # Before the processes are joined, all of them read the same words.
    number = os.environ.get("RANK", "0") if "TORCHELASTIC_RUN_ID" in os.environ else "0"
    if processes.tells if processes is not None and processes.was_joined else number == "0":
        where = f" in process {number}" if number != "0" else ""
        print(f"error{where}: {one_line(message)}", file=sys.stderr)
    sys.exit(status)


def _process() -> int:
    """Return the number of this process, without importing anything."""
    processes = sys.modules.get("pyrovae.compute.processes")
    rank: int = processes.rank() if processes is not None else 0
    return rank
