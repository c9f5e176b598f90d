"""Tables of components by name: from them come the options' choices, the help and the error messages.

A table is plain words. It says where a component is and imports it only when it is asked for, so that help
costs no import of torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pyrovae.errors import check_choice


@dataclass(frozen=True)
class Component:
    """One row of a table.

    Attributes:
        summary: what it is, in one line of help.
        where: `"package.module:name"`.
    """

    summary: str
    where: str

    def load(self) -> Any:
        """Import the component: a class or a function."""
        module, _, name = self.where.partition(":")
        return getattr(importlib.import_module(module), name)


Row = TypeVar("Row", bound=Component)


class Table(Mapping[str, Row]):
    """Components of one kind by name.

    Args:
        kind: what the components are, for messages: "posterior".
        rows: the components.
    """

    def __init__(self, kind: str, rows: Mapping[str, Row]) -> None:
        self.kind, self._rows = kind, dict(rows)

    def __getitem__(self, name: str) -> Row:
        """The row of that name.

        Raises:
            InputError: there is no such name; the message lists those that there are.
        """
        check_choice(self.kind, name, self._rows)
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows
