"""Optimisers and schedulers, as the functions that are given to `fit` make them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np
import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Adam, Adamax, AdamW, NAdam, Optimizer, RAdam

from pyrovae.errors import InputError
from pyrovae.training.plain import make_plain


def check_functions(optimizer: Any, scheduler: Any, learning_rate: Any = None) -> None:
    """Refuse objects in the place of the functions that make the optimiser and the scheduler.

    Raises:
        InputError: one of them is an object, whose message shows the function to give instead; or the
            learning rate is given twice, as `learning_rate` and by one of them.
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
    if learning_rate is not None:
        _check_given_once(learning_rate, optimizer, scheduler)


def _check_given_once(learning_rate: Any, optimizer: Any, scheduler: Any) -> None:
    given = "learning_rate is given, and so is"
    if scheduler is not None:
        raise InputError(
            f"{given} a scheduler, which sets the learning rate too: leave one of them out. A schedule is "
            "a function of the time in epochs, such as "
            "learning_rate=pyrovae.schedules.cosine_decay(epochs, 1e-3)."
        )
    if isinstance(optimizer, partial) and "lr" in optimizer.keywords:
        raise InputError(f"{given} the optimiser's lr, {optimizer.keywords['lr']}: leave one of them out.")


def check_one_rate(optimizer: Optimizer) -> None:
    """Refuse an optimiser whose groups of parameters have rates of their own, or none at all.

    Raises:
        InputError: a given `learning_rate` cannot replace its rates.
    """
    rates = [group.get("lr") for group in optimizer.param_groups]
    if None in rates:
        raise InputError(
            f"learning_rate is given, but {type(optimizer).__name__} has no learning rate (lr): leave "
            "learning_rate out."
        )
    if len(set(rates)) > 1:
        raise InputError(
            "learning_rate is given, but the optimiser's groups of parameters have rates of their own, "
            f"{', '.join(f'{rate:g}' for rate in rates)}: leave learning_rate out and give a scheduler, or "
            "give all groups one rate."
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
            number = isinstance(value, Tensor) and value.dim() == 0
            if isinstance(value, np.generic) or number:
                group[name] = value.item()
            elif type(value) is tuple:
                group[name] = tuple(v.item() if isinstance(v, np.generic) else v for v in value)
    return optimizer


_CAPTURABLE = (Adam, AdamW, Adamax, NAdam, RAdam)
"""Optimisers of torch whose steps a CUDA graph can hold, with tensors for their learning rates."""


def is_capturable(optimizer: Optimizer) -> bool:
    """Return whether an optimiser's step can be captured in a CUDA graph, other than by its own code."""
    hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    plain = type(optimizer) in _CAPTURABLE and not any(hooks)
    return plain and not any(group["differentiable"] for group in optimizer.param_groups)


@contextmanager
def as_captured(optimizer: Optimizer, rates: Sequence[Tensor] | None = None) -> Iterator[None]:
    """Within the block, let an optimiser step as under a capture. What others see of it stays plain.

    Args:
        optimizer: an optimiser that `is_capturable`. Its counters of steps stay on the device afterwards.
        rates: tensors that take the places of the groups' learning rates. None leaves these as they are.
    """
    for parameter, state in optimizer.state.items():
        if "step" in state:
            state["step"] = state["step"].to(parameter.device, torch.float32)
    before = [(group["capturable"], group["lr"]) for group in optimizer.param_groups]
    for number, group in enumerate(optimizer.param_groups):
        group["capturable"] = True
        if rates is not None:
            group["lr"] = rates[number]
    try:
        yield
    finally:
        for group, (capturable, rate) in zip(optimizer.param_groups, before, strict=True):
            group["capturable"] = capturable
            if rates is not None:
                group["lr"] = rate


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
