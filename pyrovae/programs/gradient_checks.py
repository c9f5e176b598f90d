"""The parameters that a loss depends on, read off the graph of automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from torch import Tensor

from pyrovae.errors import InputError


def check_gradients(
    loss: Callable[[], Tensor], parameters: Mapping[str, Tensor], replaced: Collection[int] = ()
) -> list[Tensor]:
    """Compare the parameters that the loss depends on with those that will be trained.

    Args:
        loss: a function that computes the loss.
        parameters: all parameters by name.
        replaced: the ids of parameters that the loss need not depend on. If it does not, they are not
            trained.

    Returns:
        The parameters to train.

    Raises:
        InputError: the loss does not depend on a parameter that would be trained; it depends on a tensor
            that requires a gradient but is not a known parameter; or there is no parameter to train.
    """
    trainable = {name: value for name, value in parameters.items() if value.requires_grad}
    first = loss()
    reached = {id(leaf): leaf for leaf in _leaves(first)}
    idle = {name: value for name, value in trainable.items() if id(value) not in reached}
    trained = {name: value for name, value in trainable.items() if name not in idle}
    if in_vain := [name for name, value in idle.items() if id(value) not in replaced]:
        raise InputError(
            f"no gradient reaches {', '.join(in_vain)}: training would leave them as they are. Use them in "
            "the program or the objective (SupervisedELBO trains a guide's classifier on given classes), "
            "remove them, or freeze them with requires_grad_(False)."
        )
    if not trained:
        raise InputError(
            "the pair has no parameter to train: pass methods of an nn.Module, or show the functions' "
            "modules to Pyro with pyro.module(name, module)."
        )
    stray = reached.keys() - {id(value) for value in trained.values()}
    if stray:  # Zuko's flows create such tensors anew in every run: these are not parameters
        stray &= {id(leaf) for leaf in _leaves(loss())}
    if stray:
        shapes = ", ".join(str(tuple(reached[key].shape)) for key in stray)
        raise InputError(
            f"the loss depends on {len(stray)} parameters that fit does not know (shapes {shapes}): call "
            "pyro.module(name, module) in the function that uses them, so that they are trained and saved."
        )
    return list(trained.values())


def _leaves(loss: Tensor) -> Iterable[Tensor]:
    """Return the tensors at which backpropagation from the loss ends."""
    seen, stack = set(), [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        stack += [parent for parent, _ in node.next_functions]
