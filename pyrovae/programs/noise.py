"""Record the random numbers that a program draws, and let another run of it draw the same ones.

All of torch's random operations are seen, inside and outside of `pyro.sample`. So two ways to run several
copies of a program can be compared, draw by draw, whatever its distributions are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Noise = list[Tensor]
"""The results of the random operations of one run, in order."""


class OtherNoise(Exception):
    """Raised where a run asks for other random numbers than those that were recorded."""


def _is_random(operation: Any) -> bool:
    # Attention has a seed for its dropout, which evaluation mode turns off.
    return torch.Tag.nondeterministic_seeded in operation.tags and "attention" not in operation.name()


class RecordedNoise(TorchDispatchMode):
    """Records the result of each random operation in `noise`."""

    def __init__(self) -> None:
        super().__init__()
        self.noise: Noise = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        if _is_random(operation):
            self.noise += [part.detach().clone() for part in _tensors(result)]
        return result


class ReplayedNoise(TorchDispatchMode):
    """Gives a run of several copies the noise that was recorded for each copy.

    Args:
        copies: the noise of each copy.
        values: the number of enumerated values. Draws for each of them are the same draws.

    Raises:
        OtherNoise: the run draws numbers in another order, or not for each copy.
    """

    def __init__(self, copies: Sequence[Noise], values: int = 1) -> None:
        super().__init__()
        self.copies, self.values, self.count = copies, values, 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        if _is_random(operation):
            for part in _tensors(result):
                part.copy_(self._next(part.shape))
        return result

    def _next(self, shape: torch.Size) -> Tensor:
        if any(self.count >= len(noise) for noise in self.copies):
            raise OtherNoise("the run draws more numbers than were recorded")
        draws = [noise[self.count] for noise in self.copies]
        self.count += 1
        if len({draw.shape for draw in draws}) > 1:
            raise OtherNoise("the copies draw different numbers of random numbers")
        if math.prod(shape) == self.values * len(draws) * draws[0].numel():
            draws = draws * self.values  # drawn anew for each enumerated value
        return _joined(draws, shape)


def _joined(draws: list[Tensor], shape: torch.Size) -> Tensor:
    """Join the draws of several copies to a tensor of a given shape."""
    one, copies = draws[0].shape, len(draws)
    for dim, size in enumerate(one):
        if shape == torch.Size((*one[:dim], copies * size, *one[dim + 1 :])):
            return torch.cat(draws, dim)
    if math.prod(shape) != copies * math.prod(one):
        raise OtherNoise(f"the run draws numbers of shape {tuple(shape)}, which is not one for each copy")
    return torch.stack(draws).reshape(shape)


def _tensors(result: Any) -> list[Tensor]:
    return [
        part for part in (result if isinstance(result, tuple) else (result,)) if isinstance(part, Tensor)
    ]
