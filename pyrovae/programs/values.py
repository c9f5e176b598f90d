"""Draws in another shape, which their distributions score as they score the draws themselves.

A straight-through distribution of Pyro (`RelaxedOneHotCategoricalStraightThrough`,
`RelaxedBernoulliStraightThrough`) rounds its draw, and scores it by the value before rounding. The draw
carries this value as an attribute, which is lost when the draw is copied, reshaped or joined with others.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pyrovae.programs.reparameterisation import relaxed_value


def changed(change: Callable[..., Tensor], *draws: Tensor) -> Tensor:
    """Apply a change of shape to draws, and to the values that they were rounded from.

    Args:
        change: a function of as many tensors as there are draws, which copies, reshapes or joins them.
        draws: values of one site.

    Example:
        >>> import torch
        >>> from pyro.distributions import RelaxedBernoulliStraightThrough
        >>> fn = RelaxedBernoulliStraightThrough(torch.tensor(0.5), logits=torch.zeros(3))
        >>> draw = fn.rsample()
        >>> row = changed(lambda value: value.unsqueeze(0), draw)
        >>> torch.equal(fn.log_prob(row)[0], fn.log_prob(draw))
        True
    """
    parts = [parts_of(draw) for draw in draws]
    return draw_of(*(change(*part) for part in zip(*parts, strict=False)))


def parts_of(draw: Tensor) -> tuple[Tensor, ...]:
    """Return a draw, and the value that it was rounded from if there is one."""
    relaxed = relaxed_value(draw)
    return (draw,) if relaxed is draw else (draw, relaxed)


def draw_of(value: Tensor, *relaxed: Tensor) -> Tensor:
    """Return the draw that has these parts; see `parts_of`."""
    for part in relaxed:
        value._unquantize = part  # type: ignore[attr-defined]
    return value
