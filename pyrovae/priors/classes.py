"""The prior over classes."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.errors import InputError


class Classes(nn.Module):
    """p(y) = Cat(pi) over the classes 0, 1, ..., C - 1.

    Args:
        num_classes: the number of classes C.
        learned: train pi. By default it stays uniform.

    Raises:
        InputError: when there are fewer than 2 classes.

    Examples:
        >>> from pyrovae.priors import Classes
        >>> Classes(4)().probs.tolist()
        [0.25, 0.25, 0.25, 0.25]
    """

    logits: Tensor

    def __init__(self, num_classes: int, learned: bool = False) -> None:
        super().__init__()
        if num_classes < 2:
            raise InputError(f"num_classes is {num_classes}; it must be at least 2.")
        self.num_classes = num_classes
        self.logits = nn.Parameter(torch.zeros(num_classes), requires_grad=learned)

    def forward(self) -> TorchDistributionMixin:
        """Return p(y), with batch shape `()` and event shape `()`."""
        return dist.Categorical(logits=self.logits)
