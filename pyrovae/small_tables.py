"""Small tables of results: as text for a terminal, as HTML for a notebook."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape

_CELL = ' style="text-align: right"'


def text(heading: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[int] = (0,)) -> list[str]:
    """Return the lines of a table as text.

    Args:
        heading: the names of the columns.
        rows: the rows, a text for each column.
        words: the numbers of the columns that hold words. They begin at the left, and numbers end at
            the right.

    Example:
        >>> print("\\n".join(text(["unit", "KL"], [["z[0]", "1.20"]])))
        unit    KL
        z[0]  1.20
    """
    cells = [heading, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    places = [str.ljust if number in words else str.rjust for number in range(len(widths))]
    return [
        "  ".join(
            place(cell, width) for place, cell, width in zip(places, row, widths, strict=True)
        ).rstrip()
        for row in cells
    ]


def html(
    heading: Sequence[object], rows: Iterable[Sequence[object]], title: str = "", notes: Iterable[str] = ()
) -> str:
    """Return a table in HTML. The first column holds the names of the rows.

    Args:
        heading: the names of the columns.
        rows: the rows, a value for each column.
        title: the title above the table; empty for none.
        notes: lines of text below the table.

    Example:
        >>> html(["unit", "KL"], [["z[0]", "1.20"]])[:7]
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
