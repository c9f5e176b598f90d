"""The parameters that a loss depends on, read off the graph of automatic differentiation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import pyro
from torch import Tensor

from pyrovae.errors import InputError, warn

TRIALS = 16
"""The number of losses in which a parameter must be used at least once, for programs that skip parts."""


def check_gradients(
    loss: Callable[[], Tensor],
    parameters: Mapping[str, Tensor],
    replaced: Collection[int] = (),
    shown: Collection[int] = (),
) -> list[Tensor]:
    """Compare the parameters that the loss depends on with those that will be trained.

    Args:
        loss: a function that computes the loss. If a parameter is not used, the function is called up to
            `TRIALS` times, since a program may use it in some runs only.
        parameters: all parameters by name.
        replaced: the ids of parameters that the loss need not depend on. If it does not, they are not
            trained.
        shown: the ids of parameters of `pyro.param`. If the loss does not depend on one, a warning says so,
            since a program cannot freeze it.

    Returns:
        The parameters to train.

    Raises:
        InputError: the loss does not depend on a parameter that would be trained; it depends on a tensor
            that requires a gradient but is not a known parameter; or there is no parameter to train.

    Warns:
        UserWarning: the loss does not depend on a parameter of `pyro.param`.
    """
    trainable = {name: value for name, value in parameters.items() if value.requires_grad}
    first = _checked_for_checkpoints(loss)
    reached = {id(leaf): leaf for leaf in leaves(first)}
    needed = {id(value) for value in trainable.values()} - set(replaced)
    for _ in range(TRIALS - 1):
        if not needed - reached.keys():
            break
        reached |= {id(leaf): leaf for leaf in leaves(_checked_for_checkpoints(loss))}
    idle = {name: value for name, value in trainable.items() if id(value) not in reached}
    _refuse_idle([name for name, value in idle.items() if id(value) not in {*replaced, *shown}])
    trained = [value for value in trainable.values() if id(value) in {*reached, *shown}]
    if not trained:
        raise InputError(
            "the pair has no parameter to train: the programs use no nn.Module with a parameter that "
            "requires a gradient, and show none to Pyro. Unfreeze one with requires_grad_(), or use "
            "pyro.param. A tensor or nn.Parameter that stands in no module is not found: show it by "
            "pyro.param(name, value), or make it an attribute of a module."
        )
    check_no_strays(first, loss, trained)
    if of_pyro := [name for name, value in idle.items() if id(value) in shown]:
        warn(
            f"no gradient reaches the parameters {', '.join(of_pyro)} of pyro.param: training leaves them "
            "as they are until one does. If that is intended, use plain tensors instead."
        )
    return trained


def check_no_strays(first: Tensor, again: Callable[[], Tensor], known: Iterable[Tensor]) -> None:
    """Refuse a loss that depends on a tensor that requires a gradient but is not a known parameter.

    Args:
        first: the loss.
        again: a function that computes the loss once more. It is called if a tensor is unknown.
        known: the known parameters.

    Raises:
        InputError: the loss depends on such a tensor. The message gives its shape.
    """
    reached = {id(leaf): leaf for leaf in leaves(first)}
    # A program may hide parameters of pyro.param from training by poutine.block, as from Pyro's SVI.
    hidden = {id(value) for _, value in pyro.get_param_store().named_parameters()}
    stray = reached.keys() - {id(value) for value in known} - hidden
    if stray:  # Zuko's flows create such tensors anew in every run: these are not parameters
        stray &= {id(leaf) for leaf in leaves(again())}
    if stray:
        shapes = ", ".join(str(tuple(reached[key].shape)) for key in stray)
        raise InputError(
            f"the loss depends on {len(stray)} parameters that fit does not know (shapes {shapes}): they "
            "would neither be trained nor saved. In the program that uses them, call pyro.module(name, "
            "module), or pyro.param(name, tensor) for a tensor of no module; or detach() them."
        )


def leaves(loss: Tensor) -> Iterable[Tensor]:
    """Return the tensors at which backpropagation from the loss ends."""
    return [node.variable for node in _nodes(loss) if hasattr(node, "variable")]


def _nodes(loss: Tensor) -> Iterable[Any]:
    seen, stack = set(), [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack += [parent for parent, _ in node.next_functions]
    return seen


def _refuse_idle(names: list[str]) -> None:
    if names:
        raise InputError(
            f"no gradient reaches {', '.join(names)}: training would leave them as they are. Use them in "
            "the program or the objective (SupervisedELBO trains a guide's classifier on given classes), "
            "remove them, or freeze them with requires_grad_(False). What the program uses later only can "
            "be unfrozen then, for example by a callback."
        )


def _checked_for_checkpoints(loss: Callable[[], Tensor]) -> Tensor:
    """Compute the loss, and refuse reentrant checkpointing, which hides parameters from autograd.grad."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = loss()
    hidden = any("None of the inputs have requires_grad=True" in str(warning.message) for warning in caught)
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if hidden or any("CheckpointFunctionBackward" in type(node).__name__ for node in _nodes(value)):
        raise InputError(
            "a part of the program runs under torch.utils.checkpoint with use_reentrant=True, which hides "
            "its parameters from the loss: write checkpoint(..., use_reentrant=False)."
        )
    return value
