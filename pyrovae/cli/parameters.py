"""The parameters that several commands have in common.

The modules of the commands import torch only when a command runs, so that help is fast.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from pyrovae.errors import InputError
from pyrovae.storage import expanded

if TYPE_CHECKING:
    from pyrovae.recipes import Run

OWN_FILES = Group("Files of your own", sort_key=8)

RunFolder = Annotated[Path, Parameter(help="The run folder that 'train' has written.")]
Seed = Annotated[int, Parameter(help="The seed of the random draws.")]
Device = Annotated[str, Parameter(help="The device: auto (CUDA if available), cpu, cuda, cuda:1, ...")]
Compile = Annotated[
    str, Parameter(help="Whether repeated steps are compiled into one graph: auto, on or off.")
]
Quiet = Annotated[bool, Parameter(help="Show no progress bar.", negative="", show_default=False)]
Site = Annotated[
    str | None,
    Parameter(help="The name of the latent site. By default the one next to the data (m1m2: z1)."),
]
DataFile = Annotated[
    str | None,
    Parameter(
        help="Other data to use, all of them: a name or a file, as in train. By default the run's test "
        "data. The run's own data may be named too, if they have moved."
    ),
]
Out = Annotated[
    Path | None, Parameter(help="The file to write the result to. By default it is in the run folder.")
]
Limit = Annotated[
    int,
    Parameter(help="The largest number of test data to use. Of more data, so many are drawn at random."),
]
LimitSeed = Annotated[int, Parameter(help="The seed with which --limit draws the data.")]


@Parameter(name="*", group=OWN_FILES)
@dataclass(frozen=True)
class Own:
    """The user's own files with which a run was trained.

    They must be named again, since no file is executed only because a run folder names it.

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

    def open(self, folder: Path, data: str | None = None, *, needed: bool = False) -> Run:
        """Open a run folder with these files, and ask about its own or about other data.

        Args:
            folder: the folder.
            data: a name or a file; None means the run's own data.
            needed: whether to leave out the files that the run was not trained with, which other runs need.

        Raises:
            InputError: a value does not have the form FILE.py:NAME, or `Run.open` refuses the folder.
        """
        from pyrovae.recipes import Run
        from pyrovae.recipes.own_files import is_own
        from pyrovae.recipes.run import own_names
        from pyrovae.runs import RunFolder as RunFolderFiles

        given = {name: value for name, value in asdict(self).items() if value is not None}
        for name, value in given.items():
            if not is_own(value):
                raise InputError(
                    f"--{name} is {value!r}; it must name a file of your own, as FILE.py:NAME. Leave it "
                    "out if the run used no file of your own: the run folder knows everything else."
                )
        if needed:
            config = RunFolderFiles(expanded(folder)).configuration
            given = {n: v for n, v in given.items() if n in own_names(config.recipe, config.options)}
        return Run.open(folder, given, data)


NONE_OWN = Own()
