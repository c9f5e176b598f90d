"""Tables of components by name. The choices of options, the help and the error messages come from them.

A table holds plain strings. It knows the module of each component and imports it only on demand, so that
help does not import torch.
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
        summary: the component in one line of help.
        where: the place that it is imported from, `"package.module:name"`.
        options: the names of its own options, that is, of its keyword-only parameters with a default. They
            are repeated here, so that help and error messages need not import the component. A test checks
            that they agree with the component.
    """

    summary: str
    where: str
    options: tuple[str, ...] = ()

    def load(self) -> Any:
        """Import the component: a class or a function."""
        module, _, name = self.where.partition(":")
        return getattr(importlib.import_module(module), name)


Row = TypeVar("Row", bound=Component)


class Table(Mapping[str, Row]):
    """Components of one kind by name.

    Args:
        kind: the word for one component in messages, such as "posterior".
        rows: the components by name.
    """

    def __init__(self, kind: str, rows: Mapping[str, Row]) -> None:
        self.kind, self._rows = kind, dict(rows)

    def __getitem__(self, name: str) -> Row:
        """Look up a row.

        Raises:
            InputError: the name is not in the table. The message lists the names and suggests a close one.
        """
        check_choice(self.kind, name, self._rows)
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows
