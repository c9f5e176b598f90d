"""Checks of data and classes that need no model."""

from __future__ import annotations

from torch import Tensor

from pyrovae.errors import InputError

UNLABELLED = -1


def check_data(x: Tensor, y: Tensor | None = None, *, unlabelled: bool = False) -> None:
    """Refuse data that no model can be trained or scored on.

    Raises:
        InputError: no data, values that are not finite, classes that are not one for each datum, or,
            unless they may be `unlabelled`, one that is unknown.
    """
    if not isinstance(x, Tensor):
        raise InputError(f"the data are a {type(x).__name__}, not a tensor: use torch.as_tensor(data).")
    if x.dim() < 2 or x.numel() == 0:
        raise InputError(
            f"the data have shape {tuple(x.shape)}; expected at least one datum, (N, *x_shape)."
        )
    if not x.is_floating_point():
        raise InputError(
            f"the data have type {x.dtype}; expected floating point: use x.float(), "
            "and x.float() / 255 for bytes that stand for grey values."
        )
    bad = ~x.isfinite().flatten(1).all(1)
    if bad.any():
        raise InputError(
            f"{int(bad.sum())} of {len(x)} data hold values that are not finite (NaN or infinity), "
            f"the first is datum {int(bad.nonzero()[0])}: remove or repair them."
        )
    if y is None:
        return
    check_classes(y, len(x))
    if not unlabelled and not y.is_floating_point() and (unknown := int((y == UNLABELLED).sum())):
        raise InputError(
            f"{unknown} of {len(y)} classes are {UNLABELLED}, unlabelled: give the class of every datum "
            "here, or leave y out."
        )


def check_classes(y: Tensor, num_data: int) -> None:
    """Refuse classes that cannot be those of the data.

    Raises:
        InputError: not one whole number for each datum, or one below -1, which stands for unlabelled.
    """
    if not isinstance(y, Tensor):
        raise InputError(
            f"the classes are a {type(y).__name__}, not a tensor: use torch.as_tensor(classes)."
        )
    if len(y) != num_data:
        raise InputError(f"there are {num_data} data and {len(y)} classes; expected one for each datum.")
    if y.is_floating_point():  # no classes, then: a value of each datum that the program has a use for
        return
    if y.dim() != 1:
        raise InputError(
            f"the classes have shape {tuple(y.shape)}; expected one whole number for each datum, "
            f"({num_data},): use classes.squeeze(1) on a column, classes.argmax(1) on one-hot rows."
        )
    if y.min() < UNLABELLED:
        raise InputError(
            f"the classes go down to {int(y.min())}; expected whole numbers counted from 0, or "
            f"{UNLABELLED} where the class is not known."
        )
