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
        defaults: the recipe's own defaults for options that all recipes share, by name.
    """

    name: str = ""
    classes: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)


def declaration_of(recipe: Callable[..., Any]) -> Declaration:
    """Return the declaration of a recipe, or an empty one for a plain function."""
    found = getattr(recipe, ATTRIBUTE, Declaration())
    assert isinstance(found, Declaration)
    return found
