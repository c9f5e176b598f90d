"""Shared code of all experiments: command lines, and rows of results with command, versions and commit."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cyclopts import App, Parameter

from pyrovae.cli.help import TwoColumns
from pyrovae.runs.provenance import git_commit, versions
from pyrovae.storage import write_atomically

RESULTS = Path(__file__).parent / "results"


def command_line(docstring: str | None) -> App:
    """Make the command line of a script.

    Args:
        docstring: the script's docstring, which becomes the help. Paragraphs are wrapped to the terminal's
            width. Examples, which are indented by four columns, keep their lines.
    """
    line_break_in_paragraph = r"(?<=\S)\n(?=[^\s-])|(?<=\S)\n  (?=\S)"
    return App(
        help=re.sub(line_break_in_paragraph, " ", docstring or ""),
        help_format="plaintext",
        help_formatter=TwoColumns(),
        error_formatter=lambda error: f"Error: {error}",
        version_flags=(),
        default_parameter=Parameter(negative_iterable=()),
    )


def some_of(names: Iterable[Any], default: str = "all") -> Parameter:
    """Make an option that can be given several times, each time with one of the allowed values.

    Args:
        names: the allowed values.
        default: the meaning of the option's absence, for the help.
    """
    allowed = [str(name) for name in names]

    def check(_: Any, given: list[Any] | None) -> None:
        for value in given or ():
            if str(value) not in allowed:
                raise ValueError(f"'{value}' is not one of: {'; '.join(allowed)}.")

    return Parameter(help=f"One or several of: {'; '.join(allowed)}. Default: {default}.", validator=check)


def write_row(script: str, row: dict[str, Any]) -> Path:
    """Write a row to `results/<script>.json`, where it replaces an earlier row of the same protocol.

    Args:
        script: the script's name.
        row: the row, to which this function adds the command and the commit.
    """
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
