"""The parameters that several commands have in common.

Nothing in the modules of commands imports torch before a command runs, so that help costs nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from pyrovae.errors import InputError

if TYPE_CHECKING:
    from pyrovae.recipes import Run

OWN_FILES = Group("Files of your own", sort_key=8)

RunFolder = Annotated[Path, Parameter(help="The run folder, which 'train' has written.")]
Seed = Annotated[int, Parameter(help="The seed of the random draws.")]
Device = Annotated[str, Parameter(help="auto (CUDA where there is one), cpu, cuda, cuda:1, ...")]
Compile = Annotated[
    str, Parameter(help="Whether repeated steps are compiled into one graph: auto, on or off.")
]
Quiet = Annotated[bool, Parameter(help="Show no progress bar.", negative="", show_default=False)]
Site = Annotated[
    str | None,
    Parameter(help="The latent by its site's name. By default it is the one next to the data (m1m2: z1)."),
]
Limit = Annotated[int, Parameter(help="The largest number of test images that are used.")]


@Parameter(name="*", group=OWN_FILES)
@dataclass(frozen=True)
class Own:
    """The files of your own with which the run was trained. They are named again, since no file is executed
    only because a run folder names it.

    Args:
        recipe: The recipe, as FILE.py:FUNCTION.
        posterior: The posterior, as FILE.py:CLASS.
        prior: The prior, as FILE.py:CLASS.
        likelihood: The likelihood, as FILE.py:CLASS.
        network: The network, as FILE.py:CLASS.
        objective: The objective, as FILE.py:CLASS.
    """

    recipe: str | None = None
    posterior: str | None = None
    prior: str | None = None
    likelihood: str | None = None
    network: str | None = None
    objective: str | None = None

    def open(self, folder: Path) -> Run:
        """Open a run folder with these files.

        Raises:
            InputError: a value is not of the form FILE.py:NAME, or what `Run.open` raises.
        """
        from pyrovae.recipes import Run
        from pyrovae.recipes.own_files import is_own

        given = {name: value for name, value in asdict(self).items() if value is not None}
        for name, value in given.items():
            if not is_own(value):
                raise InputError(
                    f"--{name} is {value!r}; here it names a file of your own, as FILE.py:NAME. "
                    "Everything else the "
                    "run folder knows."
                )
        return Run.open(folder, given)


NONE_OWN = Own()
