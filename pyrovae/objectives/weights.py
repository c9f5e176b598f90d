"""Weights of sites. A model is a proper joint, so weights such as beta belong to the objective, and to
training only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae.programs.pair import ModelAndGuide, Pair, Program


class _Reweight(Messenger):
    """Multiplies the log densities of the named sites."""

    def __init__(self, weights: Mapping[str, float | Tensor]) -> None:
        super().__init__()
        self.weights = weights

    def _pyro_sample(self, msg: Any) -> None:
        # Not poutine.scale, which refuses the weight 0 that every warm-up begins with.
        msg["scale"] = self.weights.get(msg["name"], 1.0) * msg["scale"]


def reweight(program: Program, weights: Mapping[str, float | Tensor]) -> Program:
    """Return the program with the log densities of the named sites multiplied by their weights.

    A latent site needs its weight in model and guide, so that beta weighs log p(z) and log q(z | x) alike.

    Args:
        program: a Pyro program.
        weights: numbers, or tensors `()`, by the name of a site. A site without a weight counts once.
    """
    if all(not isinstance(weight, Tensor) and weight == 1.0 for weight in weights.values()):
        return program
    return _Reweight(weights)(program)


def reweight_pair(pair: ModelAndGuide, weights: Mapping[str, float | Tensor]) -> Pair:
    """Return the pair with the sites of both programs weighted, as by `reweight`."""
    return Pair(reweight(pair.model, weights), reweight(pair.guide, weights))
