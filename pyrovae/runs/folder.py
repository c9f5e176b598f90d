"""Run folders: the files of one training, and enough to evaluate, sample and resume it.

config.json     the configuration, with versions, git commit and command, also those of each resumption
checkpoints/    the newest two, and the rows of the history, to which each epoch adds one
history.json    the history at the end of the training
verdict.json    what the training has come to
metrics.json    the summary of the last evaluation (marginal_likelihood.json has its single data)
figures/        drawings
NAME/           checkpoints and history of an earlier stage, such as vae/, the VAE beneath an M1+M2

Only training and resuming write the first three, one process at a time. A result is one file, which names
the checkpoint that it is of.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyrovae.compute import processes
from pyrovae.errors import InputError
from pyrovae.locks import is_lock, one_writer
from pyrovae.runs.configuration import ConfigFile, Configuration, Session
from pyrovae.runs.provenance import git_commit, versions
from pyrovae.storage import check_folder, is_partial, write_atomically


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
            InputError: the folder is not a run folder, or its configuration cannot be read.
        """
        if not self.config_path.is_file():
            raise InputError(
                f"{self.path} is not a run folder: it has no config.json. Train a model first."
            )
        return Configuration.read(self.config_path.read_bytes(), self.config_path)

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

    def check_writable(self) -> None:
        """Check that files can be written here, before anything is computed.

        Raises:
            InputError: the path is that of a file.
            OSError: they cannot.
        """
        check_folder(self.path)
        place = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, "it cannot be written; name another folder", str(place))

    @contextmanager
    def prepared(self, configuration: Configuration, resume: bool) -> Iterator[None]:
        """Write config.json, and let no other process write here within.

        If the training within fails before it has written a checkpoint, the folder is left as it was, so
        that the same command can be given again with other settings.

        Args:
            configuration: the configuration to write.
            resume: whether the run that is here already is resumed.

        Raises:
            InputError: the folder is in use, or another process writes there.
        """
        if not processes.is_first():
            yield
            return
        with one_writer(self.path):
            self.check_free(resume)  # again, now that no other process writes
            former = self.config_path.read_bytes() if self.config_path.is_file() else None
            written, before = self._content(configuration, former), self.checkpoints()
            write_atomically(self.config_path, written)
            try:
                yield
            except Exception:  # after Ctrl-C the run can be resumed from its beginning
                if not self.checkpoints() - before:
                    self._put_back(former, written, configuration.run)
                raise

    def checkpoints(self) -> set[Path]:
        """Return the files of the checkpoints of all stages."""
        return {*self.path.glob("**/epoch-*.pt")}

    def _put_back(self, former: bytes | None, written: bytes, run: str) -> None:
        """Restore config.json as it was, unless another process has changed it.

        Of a new run, the history of an epoch that has no checkpoint is removed too.
        """
        with suppress(OSError):  # the failure is what the user must be told
            if self.config_path.read_bytes() != written:
                return
            if former is not None:
                write_atomically(self.config_path, former)
                return
            self.config_path.unlink()
            for path in [*self.path.glob(f"**/history-{run}.jsonl")]:
                path.unlink()
                for folder in (path.parent, path.parent.parent):
                    folder.rmdir()  # where it is empty

    def _content(self, configuration: Configuration, former: bytes | None) -> bytes:
        """Return the content of config.json. A resumed run keeps its first record and gets a new one."""
        # A word may hold bytes that are no text, which JSON cannot hold.
        command = " ".join(["pyrovae", *sys.argv[1:]]).encode(errors="backslashreplace").decode()
        now = Session(command, versions(), git_commit(), processes.count())
        if former is None:
            begun = ConfigFile(now.command, now.versions, now.git_commit, now.processes, configuration)
            return begun.text()
        content = ConfigFile.read(former, self.config_path)
        content.config = configuration
        content.resumed = [*content.resumed, now]
        return content.text()

    def _in_use(self) -> bool:
        if not self.path.exists():
            return False
        if not self.path.is_dir():
            return True
        return not all(is_partial(path) or is_lock(path) for path in self.path.iterdir())
