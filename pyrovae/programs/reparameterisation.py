"""The latents of a guide that let a gradient pass: they are reparameterised or enumerated.

A draw from a reparameterised distribution (one with `rsample`) is a differentiable function of the guide's
parameters. An enumerated site is not drawn: its values are summed over, and the sum is differentiable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.programs.distributions import name_of


def is_marked_for_enumeration(site: Mapping[str, Any]) -> bool:
    """Whether the guide marks the site with `infer={"enumerate": "parallel"}`."""
    return site["infer"].get("enumerate") == "parallel"


def is_reparameterised(site: Mapping[str, Any]) -> bool:
    """Whether draws at the site are differentiable functions of the distribution's parameters."""
    return bool(site["fn"].has_rsample)


def relaxed_value(value: Tensor) -> Tensor:
    """Return the relaxed value that a straight-through draw was rounded from; the value itself if none.

    The straight-through distributions of Pyro score a draw by its relaxed value, which the draw carries.
    """
    relaxed: Tensor = getattr(value, "_unquantize", value)
    return relaxed


def copy_of_draw(value: Tensor) -> Tensor:
    """Return a copy of a draw that straight-through distributions score as they score the draw."""
    relaxed = relaxed_value(value)
    return value.clone() if relaxed is value else rounded(value, relaxed.clone())


def rounded(value: Tensor, relaxed: Tensor) -> Tensor:
    """Return a straight-through draw whose gradient goes to a given relaxed value.

    Args:
        value: the rounded value.
        relaxed: the relaxed value, with a gradient.
    """
    draw: Tensor = _Rounded.apply(relaxed, value)
    draw._unquantize = relaxed  # type: ignore[attr-defined]
    return draw


class _Rounded(torch.autograd.Function):
    """The rounded value, whose gradient goes to the relaxed value."""

    @staticmethod
    def forward(ctx: Any, relaxed: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def check_gradient_flows(guide_trace: Trace, otherwise: str = "") -> None:
    """Refuse a guide with a latent that is neither reparameterised nor enumerated.

    Args:
        guide_trace: a trace of the guide.
        otherwise: one more remedy for the message, such as "use ScoreFunctionELBO".

    Raises:
        InputError: a latent of the guide lets no gradient pass. The message names its site.
    """
    for name in guide_trace.stochastic_nodes:
        site = guide_trace.nodes[name]
        if poutine.util.site_is_subsample(site):
            continue
        if not (is_marked_for_enumeration(site) or is_reparameterised(site)):
            raise InputError(
                f"the guide's site '{name}' ({name_of(site['fn'])}) is neither reparameterised nor "
                "enumerated, so no gradient passes through its draws: mark a discrete site with "
                "infer={'enumerate': 'parallel'}, or give a continuous site a distribution that has rsample"
                f"{f', or {otherwise}' if otherwise else ''}."
            )
