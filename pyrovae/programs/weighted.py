"""A weight for each datum: it multiplies all of the datum's log densities, and so its bound."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from pyro import poutine

from pyrovae.programs.pair import ModelAndGuide, Pair, Program, with_programs
from pyrovae.programs.signatures import parameters_of

WEIGHT = "weight"
"""The name of the programs' argument that has the weight of each datum, `(B,)`."""


def with_datum_weights(pair: ModelAndGuide) -> Pair:
    """Return the pair with a further argument `weight`, which multiplies the bound of each datum.

    A datum of weight 2 counts in the mean loss as if it were there twice. The terms in a history are those
    without weights.

    Args:
        pair: a pair whose sites all lie under a plate of the data.

    Example:
        >>> import torch
        >>> from pyrovae import fit
        >>> from pyrovae.models import PPCA
        >>> x, weight = torch.randn(20, 3), torch.rand(20)
        >>> pair = with_datum_weights(PPCA(3, 1))
        >>> history = fit(pair, x, given={"weight": weight / weight.mean()}, epochs=1, progress=False)
    """
    return with_programs(pair, _weighted(pair.model), _weighted(pair.guide))


def _weighted(program: Program) -> Program:
    @functools.wraps(program)
    def run(*args: Any, **kwargs: Any) -> Any:
        with poutine.scale(scale=kwargs.pop(WEIGHT)):
            return program(*args, **kwargs)

    if (known := parameters_of(program)) is not None:
        weight = inspect.Parameter(WEIGHT, inspect.Parameter.KEYWORD_ONLY)
        several = [p for p in known.values() if p.kind is p.VAR_KEYWORD]
        others = [p for p in known.values() if p.kind is not p.VAR_KEYWORD]
        # inspect reads __signature__, but functions do not declare it.
        run.__signature__ = inspect.Signature([*others, weight, *several])  # type: ignore[attr-defined]
    return run
