"""Weights of sites, such as beta.

A model is a proper joint distribution, so the weights belong to the objective, and to training only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrovae.programs.pair import ModelAndGuide, Pair, Program, with_programs


class _Reweight(Messenger):
    """A handler that multiplies the log densities of the named sites, and of all latents, by weights."""

    def __init__(self, weights: Mapping[str, float | Tensor], latents: float | Tensor) -> None:
        super().__init__()
        self.weights, self.latents = weights, latents

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        # The role is asked for in each run, since a latent may be sampled in some runs only.
        of_role = 1.0 if msg["is_observed"] else self.latents
        # Not poutine.scale, which refuses 0, the first weight of every warm-up.
        msg["scale"] = self.weights.get(msg["name"], of_role) * msg["scale"]


@dataclass(frozen=True, eq=False)
class _Reweighted:
    """A program with weighted sites. It shows the program itself, see `unweighted`."""

    program: Program
    weights: Mapping[str, float | Tensor]
    latents: float | Tensor

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _Reweight(self.weights, self.latents):
            return self.program(*args, **kwargs)


def reweight(
    program: Program, weights: Mapping[str, float | Tensor], latents: float | Tensor = 1.0
) -> Program:
    """Return the program with the log densities of the named sites multiplied by their weights.

    A latent site needs its weight in model and guide, so that beta weighs log p(z) and log q(z | x) alike.

    Args:
        program: a Pyro program.
        weights: numbers, or tensors `()`, by the name of a site.
        latents: the weight of each latent site that is not named, also of one that appears in some runs
            only. Any other site that is not named has weight 1.
    """
    if all(not isinstance(weight, Tensor) and weight == 1.0 for weight in [latents, *weights.values()]):
        return program
    return _Reweighted(program, weights, latents)


def unweighted(program: Program) -> Program:
    """Return the program without the weights that `reweight` gave to its sites."""
    return unweighted(program.program) if isinstance(program, _Reweighted) else program


def reweight_pair(
    pair: ModelAndGuide, weights: Mapping[str, float | Tensor], latents: float | Tensor = 1.0
) -> Pair:
    """Return the pair with the sites of both programs weighted, as by `reweight`."""
    return with_programs(
        pair, reweight(pair.model, weights, latents), reweight(pair.guide, weights, latents)
    )
