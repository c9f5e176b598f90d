"""A file of measurements, to which a script adds one entry when a job is done.

A script that is started again continues after the last finished job. Several processes can share the work.
"""

from __future__ import annotations

import fcntl
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reporting import RESULTS

from pyrovae.runs.provenance import git_commit, versions
from pyrovae.storage import write_atomically

Entry = dict[str, Any]


class Measurements:
    """The file `results/<script>.json`: the entries, and the rows of results made from them.

    Args:
        script: the script's name.
        rows: a function from all entries to the rows.
        folder: the folder of the file.
        name: the file's name without its ending. None means the script's.
    """

    def __init__(
        self,
        script: str,
        rows: Callable[[list[Entry]], Iterable[Entry]],
        folder: Path = RESULTS,
        name: str | None = None,
    ) -> None:
        self.script, self.make_rows = script, rows
        self.path = folder / f"{name or script}.json"

    @property
    def content(self) -> dict[str, Any]:
        """The content of the file; empty lists if there is no file yet."""
        content: dict[str, Any] = {"measurements": [], "rows": []}
        return json.loads(self.path.read_text()) if self.path.exists() else content

    def done(self, key: Entry) -> bool:
        """Return whether an entry with these values exists."""
        return any(key.items() <= one.items() for one in self.content["measurements"])

    def add(self, entry: Entry) -> None:
        """Add the entry of a finished job and make all rows again."""
        with self._locked():
            content = self.content
            content["command"] = f"python experiments/{self.script}.py run --help"
            content["versions"] = versions()
            content["measurements"].append(
                entry | {"command": " ".join(["python", *sys.argv]), "git_commit": git_commit()}
            )
            content["rows"] = list(self.make_rows(content["measurements"]))
            self._write(content)

    def update_rows(self) -> list[Entry]:
        """Make all rows again, write them if they differ (in their wording, say), and return them."""
        with self._locked():
            content = self.content
            rows = list(self.make_rows(content["measurements"]))
            if rows != content["rows"]:
                self._write(content | {"rows": rows})
        return rows

    def _write(self, content: dict[str, Any]) -> None:
        write_atomically(self.path, json.dumps(content, indent=1).encode() + b"\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(Path(tempfile.gettempdir()) / f"pyrovae-{self.script}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
