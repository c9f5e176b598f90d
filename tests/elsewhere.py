"""A device that is not the CPU, on any machine: its tensors hold their values in the memory of the CPU.

An operation on tensors of two devices raises an error, as on a GPU, and so does NumPy. So a mix of devices
is found also in code that reads values, and in gradients. An index out of range that reaches a kernel ends
the test, as it would end all work of a process on a GPU. torch's device "lazy" stands for the device, as
torch computes gradients of its tensors without a driver.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.optim import optimizer
from torch.utils import _foreach_utils
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

DEVICE = torch.device("lazy:0")

_MIXING = {"copy_", "_to_copy", "_copy_from", "set_", "record_stream"}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class DeviceSideAssertion(BaseException):
    """A kernel was given an index out of range. No program goes on after it."""


class Elsewhere(Tensor):
    """A tensor of this device, whose values are those of `inner`, on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __format__(self, spec: str) -> str:
        return format(self.inner, spec)

    def tolist(self) -> Any:
        """Return the values as lists, as torch does for tensors on any device."""
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Makes tensors of this device where it is asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        asked = _device_in(args, kwargs)
        if any(issubclass(each, Elsewhere) for each in types) or (asked and asked.type == DEVICE.type):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


def _device_in(args: Any, kwargs: Any) -> torch.device | None:
    """Return the device that an operation is asked for, if it is."""
    return next((v for v in (*args, *kwargs.values()) if isinstance(v, torch.device)), None)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    _check(name, args, tensors)
    asked = _device_in(args, kwargs)
    inner_args, inner_kwargs = pytree.tree_map(_inner, (args, kwargs))
    try:
        found = func(*inner_args, **inner_kwargs)
    except (IndexError, RuntimeError) as error:
        if tensors and re.search("out of (range|bounds)", str(error)):
            raise DeviceSideAssertion(str(error)) from error
        raise
    if name == "copy_" and not isinstance(args[0], Elsewhere):
        return args[0]
    there = any(isinstance(t, Elsewhere) for t in tensors) if asked is None else asked.type == DEVICE.type
    if there:
        found = pytree.tree_map_only(Tensor, Elsewhere, found)
    if any(isinstance(t, Elsewhere) for t in tensors) and asked is None:
        return return_and_correct_aliasing(func, args, kwargs, found)
    return found


def _inner(value: Any) -> Any:
    """Return what an operation gets in the memory of the CPU."""
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.inner if isinstance(value, Elsewhere) else value


def _check(name: str, args: Any, tensors: list[Tensor]) -> None:
    """Refuse what a GPU refuses: tensors of two devices, but for numbers and indices on the CPU."""
    if name in _MIXING:
        return
    if name in _INDEXED and isinstance(args[0], Elsewhere):
        tensors = [args[0], *(t for t in args[2:] if isinstance(t, Tensor))]
    places = {isinstance(t, Elsewhere) for t in tensors if t.dim() or isinstance(t, Elsewhere)}
    if len(places) > 1:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {DEVICE} and "
            f"cpu! (when computing {name})"
        )


@contextmanager
def another_device() -> Iterator[torch.device]:
    """Within the block, let there be this device."""
    autocast, fused = torch.is_autocast_enabled, _foreach_utils._get_fused_kernels_supported_devices()
    known = (
        mock.patch.object(torch, "is_autocast_enabled", lambda *on: on != ("lazy",) and autocast(*on)),
        mock.patch.object(
            optimizer, "_get_fused_kernels_supported_devices", return_value=[*fused, DEVICE.type]
        ),
        mock.patch.object(nn.Module, "to", _keeping_parameters(nn.Module.to)),
    )
    lift = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(1.0, device=...) asks the mode below
    try:
        with ExitStack() as stack:
            for patch in known:
                stack.enter_context(patch)
            stack.enter_context(_Factories())
            yield DEVICE
    finally:
        torch._C._set_only_lift_cpu_tensors(lift)


def _keeping_parameters(to: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Let a module that moves keep its parameters, as one does that moves to a GPU."""

    def moved(*args: Any, **kwargs: Any) -> nn.Module:
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            return to(*args, **kwargs)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)

    return moved
