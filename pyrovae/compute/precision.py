"""Compute matrix products and convolutions with fewer than 32 bits, and everything else with 32.

The products of large networks take most of the time of a training or an evaluation, and processors compute
them several times faster with fewer bits. TF32 rounds the factors to 11 bits of precision. bfloat16 rounds
the factors and the products to 8 bits. Log densities, sums over pixels and parameters keep 32 bits, unlike
under torch.autocast, which passes logits on with 16 bits.

Gradients are products too. The rounding is part of what autograd differentiates, so each product of the
backward pass is computed like that of the forward pass, and its result has 32 bits again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from pyrovae.compute.turns import reentered
from pyrovae.errors import InputError, check_choice

PRECISIONS = ("float32", "tf32", "bfloat16")

_PRODUCTS = (
    functional.linear,
    functional.conv1d,
    functional.conv2d,
    functional.conv3d,
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
    torch.matmul,
    torch.mm,
    torch.bmm,
    torch.addmm,
    torch.Tensor.mm,
    torch.Tensor.bmm,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
)


class _Bfloat16Products(TorchFunctionMode):
    """Rounds the factors of products to bfloat16, and returns the products as 32-bit floats."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function not in _PRODUCTS:
            return function(*args, **(kwargs or {}))
        args, kwargs = pytree.tree_map(_rounded, (args, kwargs or {}))
        product = function(*args, **kwargs)
        return product.float() if product.dtype == torch.bfloat16 else product


def _rounded(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


def in_64_bits(values: Tensor) -> Tensor:
    """Return values as 64-bit floats: on their device, or on the CPU if it lacks them, as MPS does."""
    lacking = values.device.type == "mps"
    return (values.cpu() if lacking else values).double()


def check_precision(precision: str, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a precision that the data or their device cannot have.

    Args:
        precision: one of `PRECISIONS`.
        device: the device of the data.
        dtype: the type of the data.

    Raises:
        InputError: the precision is unknown, TF32 is asked for outside of CUDA, or the data have 64 bits.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision != "float32" and dtype == torch.float64:
        raise InputError(
            f"precision '{precision}' rounds 32-bit products, but the data have 64 bits: give model and "
            "data as 32-bit floats, or leave precision out."
        )
    if precision == "tf32" and device.type != "cuda":
        raise InputError(
            f"precision 'tf32' is for CUDA devices, not {device}: use 'bfloat16' or 'float32'."
        )


@contextmanager
def products_in(precision: str, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Within the block, compute 32-bit products with the given precision.

    Args:
        precision: one of `PRECISIONS`.
        device: the device of the data.
        dtype: the type of the data.

    Raises:
        InputError: see `check_precision`.
    """
    check_precision(precision, device, dtype)
    with (
        _Bfloat16Products() if precision == "bfloat16" else nullcontext(),
        reentered(lambda: _tf32(precision == "tf32")),
    ):
        yield


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Within the block, let torch compute 32-bit products by TF32, or not.

    torch has two settings of that, and its older one cannot be read where a caller has used the newer one.
    """
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    places = (matmul, cudnn)
    name = "allow_tf32"
    value: bool | str = allowed
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Please use the new API settings")
        try:
            before = [getattr(place, name) for place in places]
        except RuntimeError:
            places = (matmul, cudnn.conv)
            name, value = "fp32_precision", "tf32" if allowed else "ieee"
            before = [getattr(place, name) for place in places]
        for place in places:
            setattr(place, name, value)
    try:
        yield
    finally:
        for place, then in zip(places, before, strict=True):
            setattr(place, name, then)
