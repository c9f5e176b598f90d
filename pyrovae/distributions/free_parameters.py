"""The protocol of distributions whose parameters can be optimised for each datum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class HasFreeParameters(Protocol):
    """A distribution that names the parameters that each datum may have of its own.

    The amortisation gap is the distance between the networks' q(z | x) and the best q of the same family
    for each datum (`pyrovae.evaluation`). For most distributions the parameters of the family are those
    that `arg_constraints` names. A distribution for which this is not so, such as a flow, has these two
    methods.
    """

    def free_parameters(self) -> dict[str, Tensor]:
        """Return the parameters of each datum by name, `(*batch_shape, ...)` each.

        Their constraints are in the distribution's `arg_constraints`.
        """

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> Any:
        """Return the same distribution with other parameters."""
