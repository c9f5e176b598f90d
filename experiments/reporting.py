"""What every experiment writes: rows of results with the command, the versions and the commit."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from pyrovae.runs.provenance import git_commit, versions
from pyrovae.storage import write_atomically

RESULTS = Path(__file__).parent / "results"


def command_line(docstring: str | None) -> typer.Typer:
    """A script's commands, with its docstring as the help, in which the lines of examples stay lines."""
    text = re.sub(r"\n\n(?=    )", "\n\n\b\n", docstring or "")
    return typer.Typer(
        help=text, rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False
    )


def some_of(names: Iterable[Any]) -> Any:
    """An option that can be given several times, each time with one of these; another is an error."""
    allowed = [str(name) for name in names]

    def check(given: list[Any] | None) -> list[Any] | None:
        for value in given or ():
            if str(value) not in allowed:
                raise typer.BadParameter(f"'{value}' is none of: {'; '.join(allowed)}.")
        return given

    return typer.Option(help=f"Some of: {'; '.join(allowed)}.", callback=check)


def write_row(script: str, row: dict[str, Any]) -> Path:
    """Put a row into `results/<script>.json`, in place of an earlier one of the same protocol."""
    path = RESULTS / f"{script}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = [old for old in rows if old["protocol"] != row["protocol"]]
    row |= {"command": " ".join(["python", *sys.argv]), "git_commit": git_commit()}
    content = {
        "command": f"python experiments/{script}.py --help",
        "versions": versions(),
        "rows": sorted([*rows, row], key=lambda r: str(r["protocol"])),
    }
    RESULTS.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(content, indent=1).encode() + b"\n")
    return path
