"""The declaration of a recipe: what it says about itself beside its signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

ATTRIBUTE = "__recipe__"


@dataclass(frozen=True)
class Declaration:
    """What a recipe says about itself beside its signature.

    Attributes:
        name: the recipe's name, `m2` or `mine.py:build`.
        classes: whether its model learns classes.
        defaults: other defaults for options that all recipes share, by name.
    """

    name: str = ""
    classes: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)


def declaration_of(recipe: Callable[..., Any]) -> Declaration:
    """The declaration of a recipe; an empty one for a plain function."""
    found = getattr(recipe, ATTRIBUTE, Declaration())
    assert isinstance(found, Declaration)
    return found
