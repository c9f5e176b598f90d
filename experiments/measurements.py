"""What has been measured so far, one entry for each job: written when it is done, so that a script that is
run again goes on where it stopped, and several processes may share the work."""

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
    """The file `results/<script>.json`: entries, and the rows of results that are made of them.

    Args:
        script: the script's name.
        rows: makes the rows from all entries.
    """

    def __init__(self, script: str, rows: Callable[[list[Entry]], Iterable[Entry]]) -> None:
        self.script, self.make_rows = script, rows
        self.path = RESULTS / f"{script}.json"

    @property
    def content(self) -> dict[str, Any]:
        """All of the file."""
        content: dict[str, Any] = {"measurements": [], "rows": []}
        return json.loads(self.path.read_text()) if self.path.exists() else content

    def done(self, key: Entry) -> bool:
        """Whether a job has been measured."""
        return any(key.items() <= one.items() for one in self.content["measurements"])

    def add(self, entry: Entry) -> None:
        """Add a job's results, and make the rows anew."""
        with self._locked():
            content = self.content
            content["command"] = f"python experiments/{self.script}.py run --help"
            content["versions"] = versions()
            content["measurements"].append(
                entry | {"command": " ".join(["python", *sys.argv]), "git_commit": git_commit()}
            )
            content["rows"] = list(self.make_rows(content["measurements"]))
            write_atomically(self.path, json.dumps(content, indent=1).encode() + b"\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        RESULTS.mkdir(exist_ok=True)
        with open(Path(tempfile.gettempdir()) / f"pyrovae-{self.script}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
