"""Standardisation: data in their own units outside of a model, and of mean 0 and scale 1 inside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrovae.compute.precision import in_64_bits
from pyrovae.errors import InputError, warn
from pyrovae.networks.shapes import Shape, as_shape, out_shape_of

_SHOWN = 10  # the number of constant columns that a warning names


class Standardisation(nn.Module):
    """The map (x - shift) / scale, with one shift and one scale for each value of a datum.

    The likelihood and the encoder's input share one standardisation, so that a model is a density of data
    in their own units. Shift and scale are buffers: they are not trained, and a checkpoint keeps them. At
    first they are 0 and 1, until `start_at(x)` takes them from data.

    Args:
        x_shape: the event shape of the data.
        column_names: the names of the columns of vectors, for messages. None are needed.

    Examples:
        >>> import torch
        >>> from pyrovae.networks import Standardisation
        >>> standardisation = Standardisation(2)
        >>> x = torch.tensor([[1.0, 100.0], [3.0, 300.0]])
        >>> standardisation.start_at(x)
        >>> standardisation(x)
        tensor([[-1., -1.],
                [ 1.,  1.]])
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, x_shape: Shape, column_names: Sequence[str] = ()) -> None:
        super().__init__()
        self.column_names = tuple(column_names)
        self.register_buffer("shift", torch.zeros(as_shape(x_shape)))
        self.register_buffer("scale", torch.ones(as_shape(x_shape)))

    @torch.no_grad()
    def start_at(self, x: Tensor, observed: Tensor | None = None) -> None:
        """Set shift and scale to the mean and the standard deviation of each value in the data.

        A value that is the same in all data has scale 1, and a warning names it. So does a value whose
        spread is no more than the rounding of its type.

        Args:
            x: the data, `(N, *x_shape)`. NaN counts as missing.
            observed: true where a value was observed, `(N, *x_shape)`. Missing values are left out. None
                means that none is missing but NaN.

        Raises:
            InputError: the data have another shape, or a value is infinite.
        """
        if tuple(x.shape[1:]) != tuple(self.shift.shape) or not len(x):
            expected = ", ".join(map(str, self.shift.shape))
            raise InputError(
                f"the data have shape {tuple(x.shape)}; expected (N, {expected}), N at least 1."
            )
        known = ~x.isnan() if observed is None else observed.to(x.device) & ~x.isnan()
        values = in_64_bits(x).where(known.to(in_64_bits(x).device), 0.0)
        if not values.isfinite().all():
            raise InputError("the data hold infinite values: remove or repair them.")
        known = known.to(values.device)
        count = known.sum(0).clamp(min=1)
        shift = values.sum(0) / count
        scale = ((values - shift) * known).square().sum(0).div(count).sqrt()
        rounding = torch.finfo(x.dtype).eps * values.abs().amax(0)
        constant = scale <= rounding
        self.shift.copy_(shift)
        self.scale.copy_(scale.where(~constant, 1.0))
        if constant.any():
            self._warn_of(constant)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise data in their own units, `(*leading, *x_shape)`."""
        return (x - self.shift) / self.scale

    def original(self, x: Tensor) -> Tensor:
        """Return standardised data, `(*leading, *x_shape)`, in their own units."""
        return self.shift + self.scale * x

    def _warn_of(self, constant: Tensor) -> None:
        columns = constant.flatten().nonzero().flatten().tolist()
        more = f" and {len(columns) - _SHOWN} others" if len(columns) > _SHOWN else ""
        names = {number: f" ({name})" for number, name in enumerate(self.column_names)}
        shown = ", ".join(f"{n}{names.get(n, '')}" for n in columns[:_SHOWN]) + more
        which = f"column {shown} is" if len(columns) == 1 else f"columns {shown} are"
        warn(
            f"{which} constant in the training data (counted from 0). A constant column has the scale 1. "
            "It tells nothing: leave it out, unless other data vary in it."
        )


class Standardised(nn.Module):
    """A network of data in their own units, which it standardises first.

    Args:
        network: maps standardised data to the output. It declares its `out_shape`.
        standardisation: the standardisation, which the likelihood shares.

    Raises:
        InputError: when the network has no `out_shape`.

    Examples:
        >>> import torch
        >>> from pyrovae.networks import MLP, Standardisation, Standardised
        >>> network = Standardised(MLP(13, 64), Standardisation(13))
        >>> network(torch.zeros(5, 13)).shape
        torch.Size([5, 64])
    """

    def __init__(self, network: nn.Module, standardisation: Standardisation) -> None:
        super().__init__()
        self.network, self.standardisation = network, standardisation
        self.out_shape = out_shape_of(network)

    def forward(self, x: Tensor) -> Tensor:
        """Map data `(*leading, *x_shape)` to `(*leading, *out_shape)`."""
        return self.network(self.standardisation(x))


def centre_of(likelihood: nn.Module) -> Tensor | int:
    """Return the value that stands for a missing one: 0 in the units in which a model sees the data.

    Args:
        likelihood: the likelihood of the data.

    Returns:
        The shift of its standardisation, `x_shape`; 0 if it has none.
    """
    standardisation = getattr(likelihood, "standardisation", None)
    return standardisation.shift if isinstance(standardisation, Standardisation) else 0
