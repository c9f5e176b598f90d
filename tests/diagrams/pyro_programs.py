"""The registry of programs with the structure of Pyro's examples and tutorials, and their known graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pyrovae.programs.pair import Pair

Arrows = set[tuple[str, str]]


class Example(NamedTuple):
    """A program, its arguments and its graph.

    Attributes:
        program: a model, or a model and its guide.
        args: the arguments.
        generative: the edges of the model, as its equations have them.
        inference: the edges of the guide.
    """

    program: Any
    args: tuple[Any, ...]
    generative: Arrows
    inference: Arrows


EXAMPLES: dict[str, Example] = {}


def example(
    generative: str | Iterable[str], *args: Any, inference: str | Iterable[str] = ()
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a function that returns a program, or a model and a guide, under the function's name."""

    def register(make: Callable[[], Any]) -> Callable[[], Any]:
        made = make()
        program = Pair(*made) if isinstance(made, tuple) else made
        EXAMPLES[make.__name__] = Example(program, args, arrows(generative), arrows(inference))
        return make

    return register


def arrows(text: str | Iterable[str]) -> Arrows:
    """Read edges: "a, b > c; c > d" are a -> c, b -> c and c -> d."""
    parts = text.split(";") if isinstance(text, str) else text
    found = set()
    for part in parts:
        if part.strip():
            parents, children = part.split(">")
            found |= {(a.strip(), b.strip()) for a in parents.split(",") for b in children.split(",")}
    return found


def chain(steps: int, *links: str) -> list[str]:
    """Return links such as "z{t} > z{u}" for each step t, with u = t + 1 and v = t + 2, in range."""
    found = []
    for t in range(steps):
        for link in links:
            last = t + (2 if "{v}" in link else 1 if "{u}" in link else 0)
            if last < steps:
                found.append(link.format(t=t, u=t + 1, v=t + 2))
    return found
