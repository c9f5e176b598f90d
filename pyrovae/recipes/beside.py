"""What a training has beside the data and their classes: given tensors, and a weight for each datum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.weighted import WEIGHT, with_datum_weights


@dataclass(frozen=True)
class Beside:
    """All that a training has beside the data and their classes.

    Attributes:
        given: tensors with a row for each datum that all programs get by name.
        weight: the weight of each datum's bound, `(N,)`, or None.
    """

    given: Mapping[str, Tensor] = field(default_factory=dict)
    weight: Tensor | None = None

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.given) or self.weight is not None

    def rows(self, rows: Tensor) -> Beside:
        """Return what belongs to some of the data."""
        weight = None if self.weight is None else self.weight[rows]
        return Beside({name: values[rows] for name, values in self.given.items()}, weight)

    def check(self, num_data: int, in_folder: bool) -> None:
        """Refuse what does not fit the data, and what a run folder does not hold.

        Args:
            num_data: N, the number of data.
            in_folder: whether the run is written into a folder.

        Raises:
            InputError: a value has no row for each datum, a weight is not above 0, or there is a folder.
        """
        tensors = dict(self.given) | ({} if self.weight is None else {WEIGHT: self.weight})
        for name, values in tensors.items():
            if not isinstance(values, Tensor) or not values.dim() or len(values) != num_data:
                shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise InputError(
                    f"{name} is {shape}; expected a tensor with a row for each of the {num_data} data."
                )
        if self.weight is not None and not (
            self.weight.dim() == 1 and bool((self.weight > 0).all()) and bool(self.weight.isfinite().all())
        ):
            raise InputError(
                "the weights of data must be finite numbers above 0, (N,): leave data of weight 0 out, "
                "x[weight > 0] and weight[weight > 0]."
            )
        if tensors and in_folder:
            raise InputError(
                f"{min(tensors)} is given, but a run folder does not hold it: leave folder out, and save "
                "the parameters by torch.save(plan.pair.state_dict(), path)."
            )

    def programs(self, pair: ModelAndGuide) -> ModelAndGuide:
        """Return the pair that takes what is given."""
        return pair if self.weight is None else with_datum_weights(pair)

    def arguments(self) -> dict[str, Tensor]:
        """Return the arguments of the programs by name. The mean of the weights is 1."""
        if self.weight is None:
            return dict(self.given)
        return dict(self.given) | {WEIGHT: self.weight / self.weight.mean()}


NOTHING_BESIDE = Beside()
