"""The declaration of a recipe: the facts that its signature does not tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

ATTRIBUTE = "__recipe__"


@dataclass(frozen=True)
class Declaration:
    """The facts about a recipe that its signature does not tell.

    Attributes:
        name: the recipe's name, such as `m2` or `mine.py:build`.
        classes: whether its model learns classes.
        needs_classes: whether its model needs the class of each datum.
        defaults: the recipe's own defaults for options that all recipes share, by name.
    """

    name: str = ""
    classes: bool = False
    needs_classes: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def learns_from_some(self) -> bool:
        """Whether its model learns classes, and some of them may be hidden."""
        return self.classes and not self.needs_classes


def declaration_of(recipe: Callable[..., Any]) -> Declaration:
    """Return the declaration of a recipe, or an empty one for a plain function."""
    found = getattr(recipe, ATTRIBUTE, Declaration())
    assert isinstance(found, Declaration)
    return found
