"""The layout of help: plain text in two columns, as wide as the terminal, at most 110 characters."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any

from cyclopts.help import PlainFormatter

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

WIDEST = 110
LABELS = 30


class TwoColumns(PlainFormatter):
    """The formatter of help: names on the left, their descriptions on the right."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print a group of commands or options.

        Args:
            console: the console to print on.
            options: the settings of the console.
            panel: the group of commands or options.
        """
        if not panel.entries:
            return
        width = min(console.width, WIDEST)
        lines = [f"{panel.title}:"] if panel.title else []
        for entry in panel.entries:
            lines += _entry(entry, width)
        console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
        console.print()


def _entry(entry: HelpEntry, width: int) -> list[str]:
    labels = "  " + ", ".join(entry.display_labels_with_metavar or entry.display_labels)
    marks = [f"[choices: {', '.join(entry.choices)}]"] if entry.choices else []
    marks += [f"[default: {entry.default}]"] if entry.default is not None else []
    marks += ["[required]"] if entry.required else []
    text = " ".join([" ".join(_plain(entry.description).split()), *marks])
    described = textwrap.wrap(text, max(20, width - LABELS), break_on_hyphens=False, break_long_words=False)
    if len(labels) > LABELS - 2 or not described:
        return [labels, *(" " * LABELS + line for line in described)]
    return [labels.ljust(LABELS) + described[0], *(" " * LABELS + line for line in described[1:])]


def _plain(description: Any) -> str:
    from rich.console import Console

    if description is None or isinstance(description, str):
        return description or ""
    console = Console(file=io.StringIO(), width=10_000, no_color=True, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(description, end="")
    return capture.get()
