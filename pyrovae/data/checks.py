"""Checks of data, classes and seeds. They need no model."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral

import torch
from torch import Tensor

from pyrovae.errors import InputError

UNLABELLED = -1
"""The class of an unlabelled datum."""


OBSERVED = "observed"
"""The name of the programs' argument that is true where a value of the data was observed."""


def check_data(
    x: Tensor, y: Tensor | None = None, *, unlabelled: bool = False, given: object = None
) -> None:
    """Refuse data that no model can be trained or evaluated on.

    Args:
        x: data `(N, *x_shape)`, `(N,)` for one number each.
        y: classes `(N,)`, or real values, one for each datum.
        unlabelled: whether classes may be -1, which stands for an unlabelled datum.
        given: what is given beside them. Where a mask `observed` among it is false, any value may stand.

    Raises:
        InputError: there are no data; the data are not floats, or hold values that are not finite; there is
            not one class for each datum; or a datum is unlabelled though `unlabelled` is False.
    """
    check_tensor(x)
    if x.dim() < 1 or x.numel() == 0:
        raise InputError(
            f"the data have shape {tuple(x.shape)}; expected at least one datum, (N, *x_shape)."
        )
    if x.is_complex():
        raise InputError(
            f"the data have type {x.dtype}; expected floating point: use torch.view_as_real(x), which has "
            "real and imaginary parts in a last dimension of 2 (x.abs() keeps the absolute values alone)."
        )
    if not x.is_floating_point():
        raise InputError(
            f"the data have type {x.dtype}; expected floating point: use x.float(), "
            "and x.float() / 255 for bytes that are grey values."
        )
    mask = mask_of_elements(x, given)
    usable = x.isfinite() if mask is None else x.isfinite() | ~mask.to(x.device)
    bad = ~usable.reshape(len(x), -1).all(1)
    if bad.any():
        where = "" if mask is None else f" where `{OBSERVED}` is true"
        raise InputError(
            f"{int(bad.sum())} of {len(x)} data hold values that are not finite (NaN, infinity, or beyond "
            f"the range of {str(x.dtype).removeprefix('torch.')} when converted){where}, "
            f"the first is datum {int(bad.nonzero()[0])}: remove or repair them. If values are missing, "
            f'say so by given={{"{OBSERVED}": mask}}, with a mask of torch.bool in the shape of the data, '
            f"true where a value was observed. The programs must take `{OBSERVED}`, as most of "
            "pyrovae.models do."
        )
    if y is None:
        return
    check_classes(y, len(x))
    if not unlabelled and holds_classes(y) and (unknown := int((y.long() == UNLABELLED).sum())):
        raise InputError(
            f"{unknown} of {len(y)} classes are {UNLABELLED}, unlabelled: give the class of every datum "
            "here, or leave y out."
        )


def check_tensor(x: object) -> None:
    """Refuse anything but a tensor that holds values in memory, dense.

    Raises:
        InputError: `x` is something else.
    """
    if not isinstance(x, Tensor):
        raise InputError(
            f"the data are a {type(x).__name__}, not a tensor `(N, *x_shape)`: use torch.as_tensor(data) "
            "for arrays and lists, images.x_train for a loaded data set, loader.dataset for a DataLoader."
        )
    if x.layout != torch.strided or x.is_meta:
        kind = "on the device meta, without values" if x.is_meta else f"of the layout {x.layout}"
        raise InputError(f"the data are a tensor {kind}: give a dense one, such as x.to_dense().")


def mask_of_elements(x: Tensor, given: object) -> Tensor | None:
    """Return `observed` of what is given beside x, if it is a mask of the elements of x; else None."""
    observed = given.get(OBSERVED) if isinstance(given, Mapping) else None
    is_mask = isinstance(observed, Tensor) and observed.dtype == torch.bool and observed.shape == x.shape
    return observed if is_mask else None


def holds_classes(y: Tensor) -> bool:
    """Whether a tensor holds whole numbers. Floats and masks (`torch.bool`) are values of another kind."""
    return not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)


def check_classes(y: Tensor, num_data: int) -> None:
    """Refuse classes that do not fit the data. Floats and masks are values of another kind and pass.

    Args:
        y: classes `(N,)`: whole numbers counted from 0, and -1 for unlabelled data.
        num_data: the number of data, N.

    Raises:
        InputError: there is not one whole number for each datum, or one is below -1.
    """
    if not isinstance(y, Tensor):
        raise InputError(
            f"the classes are a {type(y).__name__}, not a tensor: use torch.as_tensor(classes)."
        )
    if len(y) != num_data:
        raise InputError(f"there are {num_data} data and {len(y)} classes; expected one for each datum.")
    if not holds_classes(y):  # real values or a mask, which the program has a use for
        return
    if y.dim() != 1:
        raise InputError(
            f"the classes have shape {tuple(y.shape)}; expected one whole number for each datum, "
            f"({num_data},): use classes.squeeze(1) on a column, classes.argmax(1) on one-hot rows."
        )
    if y.dtype == torch.uint64 and (largest := max(y.tolist())) >= 2**63:
        raise InputError(
            f"the classes go up to {largest}, beyond 64-bit integers; expected whole numbers counted "
            f"from 0, or {UNLABELLED} for unlabelled data, in torch.int64."
        )
    if (least := int(y.long().min())) < UNLABELLED:  # small unsigned types have no -1 to compare with
        raise InputError(
            f"the classes go down to {least}; expected whole numbers counted from 0, or "
            f"{UNLABELLED} for unlabelled data."
        )


def check_lengths(num_data: int, num_labels: int, what: str) -> None:
    """Refuse labels if there is not one for each datum.

    Args:
        num_data: the number of data.
        num_labels: the number of labels.
        what: a name for the data, for messages.

    Raises:
        InputError: the numbers differ.
    """
    if num_data != num_labels:
        raise InputError(
            f"{what} has {num_data} data but {num_labels} labels: give one label for each datum."
        )


def check_seed(seed: int) -> None:
    """Refuse a seed that NumPy or scikit-learn cannot use.

    Raises:
        InputError: the seed does not lie in 0, ..., 2**32 - 1.
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise InputError(f"the seed is {seed}: choose an integer from 0 to 2**32 - 1.")
