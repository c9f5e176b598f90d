"""Record the random numbers that a program draws, and let another run of it draw the same ones.

All of torch's random operations are seen, inside and outside of `pyro.sample`. So two ways to run several
copies of a program can be compared, draw by draw, whatever its distributions are.
"""

from __future__ import annotations

import math
import random
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


class CommonNoise(TorchDispatchMode):
    """Gives all members of a batch the same random numbers, from streams that start at a seed.

    So the draws of a member do not depend on the number of members, nor on its place among them. They are
    not independent of one another. The caller's random stream does not change.

    Args:
        batch_shape: the shape of the batch. A random operation on tensors that do not begin with its
            members draws as usual.
        seed: the seed.
    """

    def __init__(self, batch_shape: Sequence[int], seed: int) -> None:
        super().__init__()
        self.members = math.prod(batch_shape)
        self._seeds = random.Random(seed)
        started = torch.cuda.is_initialized()
        self._kept = torch.random.fork_rng(range(torch.cuda.device_count()) if started else ())

    def __enter__(self) -> CommonNoise:
        self._kept.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._kept.__exit__(*error)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # would import torch's compiler, which takes seconds
        return False

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not _is_random(operation):
            return operation(*args, **kwargs)
        seed = self._seeds.getrandbits(63)  # a new one: draws of members may use up different numbers
        tensors = [value for value in args if isinstance(value, Tensor)]
        device = torch.device(kwargs.get("device") or (tensors[0].device if tensors else "cpu"))
        _seed(seed, device)
        if not tensors:
            return self._of_size(operation, args, kwargs)
        if any(self._leading(value.shape) is None for value in tensors):
            return operation(*args, **kwargs)
        if operation is torch.ops.aten.normal.Tensor_Tensor:  # the most frequent one, for all at once
            return args[0] + args[1] * self._repeated([self._member(args[0], 0).normal_()], args[0])
        # Where a tensor is filled alone, all members get the same; else the tensors set what is drawn.
        fills = operation._schema.is_mutable and len(tensors) == 1
        results = []
        for member in range(1 if fills else self.members):
            _seed(seed, device)
            results.append(operation(*(self._member(value, member) for value in args), **kwargs))
        together = self._repeated(results, tensors[0])
        return tensors[0].copy_(together) if operation._schema.is_mutable else together

    def _leading(self, shape: Sequence[int]) -> int | None:
        """Return the number of the first dimensions that are those of the batch, perhaps flattened."""
        sizes = (math.prod(shape[:count]) for count in range(len(shape) + 1))
        return next((count for count, size in enumerate(sizes) if size == self.members), None)

    def _of_size(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation that makes numbers of a size for one member, and repeat them."""
        size, *rest = args
        if not isinstance(size, list | tuple) or (leading := self._leading(size)) is None:
            return operation(*args, **kwargs)
        return operation([*size[leading:]], *rest, **kwargs).expand(size).clone()

    def _member(self, value: Any, member: int) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.reshape(self.members, *value.shape[self._leading(value.shape) :])[member].clone()

    def _repeated(self, results: list[Tensor], like: Tensor) -> Tensor:
        """Return results for each member, or one for all members, with the batch dimensions of a tensor."""
        together = torch.stack(results).expand(self.members, *results[0].shape)
        return together.reshape(*like.shape[: self._leading(like.shape)], *results[0].shape)


def _seed(seed: int, device: torch.device) -> None:
    """Seed the stream of one device. `torch.manual_seed` seeds all, which takes longer than many draws."""
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
