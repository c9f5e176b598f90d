"""Optimisers and schedulers, as the functions that are given to `fit` make them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import numpy as np
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from pyrovae.errors import InputError
from pyrovae.training.plain import make_plain


def check_functions(optimizer: Any, scheduler: Any) -> None:
    """Refuse objects in the place of the functions that make the optimiser and the scheduler.

    Raises:
        InputError: one of them is an object. The message shows the function to give instead.
    """
    of_pyro = isinstance(optimizer, FunctionType) and optimizer.__module__.startswith("pyro.optim")
    if isinstance(optimizer, PyroOptim) or of_pyro:
        line = _line("Adam", {"lr": 1e-3}) if of_pyro else _torch_line_of(optimizer)
        raise InputError(
            f"optimizer is an optimiser of Pyro, which works in Pyro's SVI only: write {line}."
        )
    if not callable(optimizer):
        line = _line_of(optimizer) if isinstance(optimizer, Optimizer) else _line("Adam", {"lr": 1e-3})
        raise InputError(
            f"optimizer is a {type(optimizer).__name__} object; expected a function that makes an "
            f"optimiser of torch from the parameters: write {line}."
        )
    if scheduler is not None and not callable(scheduler):
        name = type(scheduler).__name__
        raise InputError(
            f"scheduler is a {name} object; expected a function that makes a scheduler from the optimiser: "
            f"write scheduler=functools.partial(torch.optim.lr_scheduler.{name}, ...) with its settings."
        )


def made_optimizer(make: Callable[[Sequence[Tensor]], Any], parameters: Sequence[Tensor]) -> Optimizer:
    """Make an optimiser, with its settings as plain numbers.

    Raises:
        InputError: the function returns something else than an optimiser of torch, or fails.
    """
    optimizer = make(parameters)
    if not isinstance(optimizer, Optimizer):
        raise InputError(
            f"the function optimizer returns a {type(optimizer).__name__}, not an optimiser of torch: "
            f"write {_line('Adam', {'lr': 1e-3})}."
        )
    for group in optimizer.param_groups:
        for name, value in group.items():
            number = isinstance(value, Tensor) and value.dim() == 0 and not group.get("capturable")
            if isinstance(value, np.generic) or number:
                group[name] = value.item()
            elif type(value) is tuple:
                group[name] = tuple(v.item() if isinstance(v, np.generic) else v for v in value)
    return optimizer


def made_scheduler(make: Callable[[Optimizer], Any] | None, optimizer: Optimizer, saved: bool) -> Any:
    """Make a scheduler, with its settings as plain numbers; None for no function.

    Args:
        make: the function.
        optimizer: the optimiser.
        saved: whether checkpoints hold the scheduler's state.

    Raises:
        InputError: the function returns something that is not a scheduler.
    """
    if make is None:
        return None
    scheduler = make(optimizer)
    needed = ["step", *(["state_dict", "load_state_dict"] if saved else [])]
    if missing := [name for name in needed if not hasattr(scheduler, name)]:
        raise InputError(
            f"the function scheduler returns a {type(scheduler).__name__} without {', '.join(missing)}: "
            "return a scheduler of torch.optim.lr_scheduler, or an object with step, state_dict and "
            "load_state_dict."
        )
    for each in [scheduler, *getattr(scheduler, "_schedulers", ())]:
        make_plain(each)
    return scheduler


def _line_of(optimizer: Optimizer) -> str:
    """Return the line that makes an optimiser of the same type and with the same settings."""
    kind, defaults = type(optimizer), optimizer.defaults
    make: Any = kind
    usual = make([Tensor([0.0]).requires_grad_()]).defaults if kind.__module__.startswith("torch.") else {}
    changed = {n: v for n, v in defaults.items() if n == "lr" or (n in usual and usual[n] != v)}
    prefix = "torch.optim." if kind.__module__.startswith("torch.optim") else ""
    return _line(kind.__name__, changed, prefix)


def _torch_line_of(optimizer: Any) -> str:
    kind, settings = optimizer.pt_optim_constructor, optimizer.pt_optim_args
    settings = settings if isinstance(settings, dict) else {}
    if getattr(kind, "__module__", "").startswith("torch.optim"):
        return _line(kind.__name__, settings)
    return _line("Adam", {"lr": settings.get("lr", 1e-3)})


def _line(name: str, settings: dict[str, Any], prefix: str = "torch.optim.") -> str:
    given = "".join(f", {setting}={value}" for setting, value in settings.items())
    return f"optimizer=functools.partial({prefix}{name}{given})"
