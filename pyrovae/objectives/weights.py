"""Weights of sites, such as beta.

A model is a proper joint distribution, so the weights belong to the objective, and to training only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae.programs.pair import ModelAndGuide, Pair, Program, with_programs


class _Reweight(Messenger):
    """A handler that multiplies the log densities of the named sites by their weights."""

    def __init__(self, weights: Mapping[str, float | Tensor]) -> None:
        super().__init__()
        self.weights = weights

    def _pyro_sample(self, msg: Any) -> None:
        # Not poutine.scale, which refuses 0, the first weight of every warm-up.
        msg["scale"] = self.weights.get(msg["name"], 1.0) * msg["scale"]


@dataclass(frozen=True, eq=False)
class _Reweighted:
    """A program with weighted sites. It shows the program itself, see `unweighted`."""

    program: Program
    weights: Mapping[str, float | Tensor]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _Reweight(self.weights):
            return self.program(*args, **kwargs)


def reweight(program: Program, weights: Mapping[str, float | Tensor]) -> Program:
    """Return the program with the log densities of the named sites multiplied by their weights.

    A latent site needs its weight in model and guide, so that beta weighs log p(z) and log q(z | x) alike.

    Args:
        program: a Pyro program.
        weights: numbers, or tensors `()`, by the name of a site. A site that is not named has weight 1.
    """
    if all(not isinstance(weight, Tensor) and weight == 1.0 for weight in weights.values()):
        return program
    return _Reweighted(program, weights)


def unweighted(program: Program) -> Program:
    """Return the program without the weights that `reweight` gave to its sites."""
    return unweighted(program.program) if isinstance(program, _Reweighted) else program


def reweight_pair(pair: ModelAndGuide, weights: Mapping[str, float | Tensor]) -> Pair:
    """Return the pair with the sites of both programs weighted, as by `reweight`."""
    return with_programs(pair, reweight(pair.model, weights), reweight(pair.guide, weights))
