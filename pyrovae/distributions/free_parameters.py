"""The protocol by which a distribution offers parameters that can be optimised for each datum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class HasFreeParameters(Protocol):
    """A distribution that says which of its parameters each datum may have for itself.

    The amortisation gap is the distance between the networks' q(z | x) and the best q of the same family
    for each datum (`pyrovae.evaluation`). For most distributions the parameters of that family are those
    that `arg_constraints` names. A distribution whose parameters are not there, such as a flow, has these
    two methods.
    """

    def free_parameters(self) -> dict[str, Tensor]:
        """Return the parameters of each datum by name, `(*batch_shape, ...)` each.

        The distribution's `arg_constraints` has the constraints that they keep.
        """

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> Any:
        """Return the same distribution with other parameters."""
