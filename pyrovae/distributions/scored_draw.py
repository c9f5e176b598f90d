"""The last draw of a distribution, kept with its log density."""

from __future__ import annotations

from typing import NamedTuple

from pyro.ops.provenance import detach_provenance
from torch import Tensor


class ScoredDraw(NamedTuple):
    """A draw and its log density, both computed in one pass.

    Attributes:
        value: the draw z.
        log_prob: log q(z).
        differentiable: whether the pass recorded gradients.
    """

    value: Tensor
    log_prob: Tensor
    differentiable: bool

    def is_of(self, value: Tensor) -> bool:
        """Tell whether `value` is this draw: the same tensor, not an equal one."""
        # Where Pyro tracks dependence, it hands the draw back in another wrapper.
        return detach_provenance(value) is detach_provenance(self.value)
