"""A recorded function, held against what the function is now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from pyrovae.compute import compilation
from pyrovae.compute.compilation import NotTraceable, Recording, difference, without_python_draws
from pyrovae.programs.memory import changes


class Recorded:
    """A function of tensors that runs as a recorded graph, until the function is another one.

    A record takes numbers, flags and branches from Python when it is made. A caller that runs other code in
    between asks `is_stale` and then calls `renew`.

    Args:
        function: the function, as in `compile_function`.
        example: the arguments that the function is recorded with, and on which it is compared.
        other: other arguments of the same shapes.
        look: a function that returns what the function remembers in Python, from `memory.remembered`.
        undisturbed: a function that makes a context. The function runs in it with the same random numbers
            each time, and without effects.

    Raises:
        NotTraceable: the function cannot be recorded. The message says why.
    """

    def __init__(
        self,
        function: Callable[..., list[Tensor]],
        example: Sequence[Tensor],
        other: Sequence[Tensor],
        look: Callable[[], dict[str, Any]],
        undisturbed: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.function, self.example, self.other = function, example, other
        self.look, self.undisturbed = look, undisturbed
        self.graph: Recording | None = None
        self._run()  # a parameter that the function declares must exist before it is recorded
        self.renew()

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        assert self.graph is not None
        return self.graph(*tensors)

    @property
    def digest(self) -> str:
        """A digest of what the record took from Python."""
        assert self.graph is not None
        return self.graph.digest

    def release(self) -> None:
        """Free the memory of captured kernels. The graph then runs operation by operation."""
        assert self.graph is not None
        self.graph.release()

    def renew(self) -> bool:
        """Record the function afresh, and return whether the record is another one than before.

        Raises:
            NotTraceable: the function cannot be recorded any more, or the new record differs from it.
        """
        with self.undisturbed():
            graph = compilation.compile_function(self.function, self.example, self.other, self.graph)
        renewed = graph is not self.graph
        self.graph = graph
        self.memory = self._run()[1]
        return renewed

    def is_stale(self) -> bool:
        """Return whether record and function differ, or something changed that the function remembers.

        Small changes of what it remembers count too. The comparison of results would miss a temperature
        that changes by a millionth in each epoch.

        Raises:
            NotTraceable: the function changes from run to run.
        """
        assert self.graph is not None
        expected, memory = self._run()
        with self.undisturbed():
            found = self.graph.checked(*self.example)
        differs = difference(found, expected) is not None
        if differs and (by := difference(self._run()[0], expected)):
            raise NotTraceable(f"two runs of the program on the same minibatch and draws differ: {by}")
        return differs or not self.graph.is_current or memory != self.memory

    def _run(self) -> tuple[list[Tensor], dict[str, Any]]:
        """Run the function on the example. Return the results, and what it then remembers.

        Raises:
            NotTraceable: the function draws from Python's generators, or counts its runs.
        """
        before = self.look()
        found = self._results()
        memory = self.look()
        if changes(before, memory):  # perhaps only since the last run was on other arguments
            self._results()
            if moved := changes(memory, self.look()):
                raise NotTraceable(
                    f"the program changes `{moved[0]}` each time it runs, and a graph would not"
                )
        return found, memory

    def _results(self) -> list[Tensor]:
        with self.undisturbed():
            return [value.detach() for value in without_python_draws(self.function)(*self.example)]
