"""Small tables for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_CELL = ' style="text-align: right"'


def table(
    heading: Sequence[object], rows: Iterable[Sequence[object]], title: str = "", notes: Iterable[str] = ()
) -> str:
    """Return a table in HTML. The first column holds the names of the rows.

    Args:
        heading: the names of the columns.
        rows: the rows, a value for each column.
        title: the title above the table; empty for none.
        notes: lines of text below the table.

    Example:
        >>> table(["unit", "KL"], [["z[0]", "1.20"]])[:7]
        '<table>'
    """
    lines = [f"<caption>{escape(title)}</caption>"] if title else []
    lines.append(_row("th", heading))
    lines += [_row("td", row) for row in rows]
    below = "".join(f"<div>{escape(note)}</div>" for note in notes)
    return f"<table>{''.join(lines)}</table>{below}"


def _row(tag: str, cells: Sequence[object]) -> str:
    first, *others = (escape(str(cell)) for cell in cells)
    numbers = "".join(f"<{tag}{_CELL}>{cell}</{tag}>" for cell in others)
    return f'<tr><th style="text-align: left">{first}</th>{numbers}</tr>'
