"""The arguments of a call, datum by datum: cut them, repeat them, and count the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Whole:
    """A value in `given` that passes whole to the programs, whatever its length.

    Without it, a tensor whose first size is N has a row for each of N data, and is cut with them. A table
    that belongs to no datum, such as one of prices by day, may have N rows by chance.

    Args:
        value: the value. The programs get it itself.

    Example:
        >>> import torch
        >>> from pyrovae.programs import Whole
        >>> given = {"table": Whole(torch.randn(365, 2))}  # fit(pair, x, given=given)
    """

    value: Any


class Arguments(NamedTuple):
    """The arguments of both programs in one call.

    Attributes:
        args: the positional arguments, the data `(N, *x_shape)` first.
        kwargs: the keyword arguments.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = {}

    @property
    def num_data(self) -> int | None:
        """N, the length of the first argument; None if it has no length."""
        first = next(iter((*self.args, *self.kwargs.values())), None)
        return len(first) if isinstance(first, Tensor) and first.dim() else None

    def of_data(self, change: Callable[[Tensor], Tensor]) -> Arguments:
        """Return the arguments with a function applied to each tensor that has a row for each datum.

        These are the tensors whose first size is N. All other arguments stay as they are.
        """
        size = self.num_data

        def changed(value: Any) -> Any:
            has_rows = isinstance(value, Tensor) and value.dim() and len(value) == size
            return change(value) if has_rows else value

        return Arguments(
            tuple(map(changed, self.args)), {name: changed(value) for name, value in self.kwargs.items()}
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All arguments in order, of a call whose arguments are all tensors."""
        return (*self.args, *self.kwargs.values())

    def with_tensors(self, tensors: Sequence[Tensor]) -> Arguments:
        """Return these arguments with other tensors in the places of `tensors`."""
        count = len(self.args)
        return Arguments(tuple(tensors[:count]), dict(zip(self.kwargs, tensors[count:], strict=True)))

    def to(self, device: torch.device) -> Arguments:
        """Return the arguments of a call whose arguments are all tensors, on a device."""
        return self.with_tensors([values.to(device) for values in self.tensors])

    def rows(self, rows: slice | Tensor) -> Arguments:
        """Return the arguments for some of the data."""
        return self.of_data(lambda values: values[rows])

    def first(self, count: int) -> Arguments:
        """Return the arguments for the first `count` data. The data begin anew if there are fewer."""
        size = self.num_data or 1
        return self.of_data(lambda values: values[torch.arange(count, device=values.device) % size])

    def repeated(self, copies: int) -> Arguments:
        """Return the arguments for `copies` copies of the data, one copy after the other."""

        def repeat(values: Tensor) -> Tensor:
            return values.expand(copies, *values.shape).flatten(0, 1)

        return self.of_data(repeat) if copies > 1 else self
