"""Run a function for several particles at once by `torch.func.vmap`, which hides their dimension from it.

Inside, tensors have the shapes of a single run, so a network that takes `(B, ...)` serves many particles.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import pyro
import torch
from torch import Tensor
from torch.func import vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

Inputs = TypeVar("Inputs")


def mapped(function: Callable[[Inputs], Any], inputs: Inputs, particles: int) -> Any:
    """Call a function once for each particle, all at the same time.

    Args:
        function: the function of the inputs of one particle. It returns tensors, in tuples or dictionaries.
            Random numbers that it draws are other ones for each particle.
        inputs: tensors with a first dimension for the particles, in tuples or dictionaries.
        particles: K, the number of particles.

    Returns:
        What the function returns, with a first dimension of size K in each tensor.

    Raises:
        RuntimeError: an operation of the function cannot run in this way.

    Example:
        >>> import torch
        >>> images = torch.zeros(3, 2, 4, 5)
        >>> mapped(torch.nn.Flatten(), images, 3).shape   # a particle is `(2, 4, 5)`
        torch.Size([3, 2, 20])
    """

    def one(number: Tensor, inputs: Inputs) -> Any:
        with _OwnMemory(number):
            return function(inputs)

    with warnings.catch_warnings(), pyro.validation_enabled(False):  # validation looks at single values
        warnings.filterwarnings("ignore", message="There is a performance drop")
        # Numbers on another device would be copied at each draw, which a CUDA graph cannot hold.
        place = next((leaf.device for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)), None)
        return vmap(one, randomness="different")(torch.arange(particles, device=place), inputs)


_DATA: Any = Tensor.data.__get__  # type: ignore[attr-defined]  # a descriptor
_EMPTY = {torch.empty, torch.empty_like, Tensor.new_empty}


class _OwnMemory(TorchFunctionMode):
    """Gives each particle its own fresh memory.

    `torch.distributions` fills fresh memory with random numbers, which fails if all particles share it.

    Args:
        number: the number of the particle, a scalar.
    """

    def __init__(self, number: Tensor) -> None:
        super().__init__()
        self.zero = number * 0

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function == _DATA:  # Pyro reads the shapes of `value.data`, which vmap forbids
            return args[0].detach()
        result = function(*args, **(kwargs or {}))
        return torch.zeros_like(result) + self.zero.to(result) if function in _EMPTY else result
