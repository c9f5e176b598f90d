"""Run folders: the files of one training, and enough to evaluate, sample and resume it.

config.json     the configuration, with versions, git commit and command, also those of each resumption
checkpoints/    the newest two
history.json    one row for each epoch
metrics.json    the summary of the last evaluation (marginal_likelihood.json has its single data)
figures/        drawings
NAME/           checkpoints and history of an earlier stage, such as vae/, the VAE beneath an M1+M2
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrovae.compute import processes
from pyrovae.errors import CheckpointError, InputError
from pyrovae.runs.configuration import FORMAT, Configuration
from pyrovae.runs.provenance import git_commit, versions
from pyrovae.storage import is_partial, remove_partials, write_atomically


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds, or will hold, one run.

    Args:
        path: the folder.
    """

    path: Path

    @property
    def config_path(self) -> Path:
        """The file with the configuration."""
        return self.path / "config.json"

    @property
    def configuration(self) -> Configuration:
        """The configuration.

        Raises:
            InputError: the folder is no run folder, or its configuration cannot be read.
        """
        if not self.config_path.is_file():
            raise InputError(
                f"{self.path} is not a run folder: it has no config.json. Train a model first."
            )
        return Configuration.read(self.config_path.read_bytes(), str(self.config_path))

    def check_free(self, resume: bool = False) -> None:
        """Check that a new run can be written here.

        Args:
            resume: whether to resume a run that is here already.

        Raises:
            InputError: the folder is in use.
        """
        if not resume and self._in_use():
            raise InputError(
                f"{self.path} is in use: name another folder, or continue the run in it with 'resume'."
            )

    @contextmanager
    def prepared(self, configuration: Configuration, keep: Collection[str] = ()) -> Iterator[None]:
        """Write config.json. If the training within is refused, leave the folder as it was before.

        Args:
            configuration: the configuration to write.
            keep: the names of earlier stages. If one of them has been trained, the run folder stays, so
                that the run can be resumed.
        """
        if not processes.is_first():
            yield
            return
        created = _first_missing(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        remove_partials(self.path)
        former = self.config_path.read_bytes() if self.config_path.is_file() else None
        self._write(configuration)
        try:
            yield
        except (InputError, CheckpointError):
            if former is not None:
                write_atomically(self.config_path, former)
            elif not any((self.path / name).exists() for name in keep):
                shutil.rmtree(created) if created is not None else self.config_path.unlink()
            raise

    def _write(self, configuration: Configuration) -> None:
        """Write config.json. A resumed run keeps its first record and gets a new one."""
        begun = json.loads(self.config_path.read_text()) if self.config_path.is_file() else None
        now = {
            "format": FORMAT,
            "command": " ".join(["pyrovae", *sys.argv[1:]]),
            "versions": versions(),
            "git_commit": git_commit(),
            "processes": processes.count(),
        }
        content: dict[str, Any] = (begun or now) | {"config": configuration.plain()}
        if begun is not None:
            resumed = {name: value for name, value in now.items() if name != "format"}
            content["resumed"] = [*begun.get("resumed", []), resumed]
        write_atomically(self.config_path, json.dumps(content, indent=1).encode())

    def _in_use(self) -> bool:
        if not self.path.exists():
            return False
        return not self.path.is_dir() or not all(is_partial(path) for path in self.path.iterdir())


def _first_missing(folder: Path) -> Path | None:
    """Return the topmost folder that must be created for `folder` to exist, or None."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    return missing[-1] if missing else None
