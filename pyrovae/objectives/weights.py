"""Weights of sites: beta and others that training gives, and what each site counts in a minibatch.

A model is a proper joint distribution, so the weights belong to the objective, and to training only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrovae.programs.densities import unscaled_log_prob
from pyrovae.programs.pair import ModelAndGuide, Program, with_programs
from pyrovae.programs.rows import Arguments

_COUNTS = "counts"  # the key of a site's node under which `count_of` finds what the site counts


@dataclass(frozen=True)
class Counting:
    """What the sites of a call count, so that the bound is this call's share of a sum over all data.

    Each datum counts 1, also where the program scales its sites up to all data. A site outside of the
    data's plate counts `outside`.

    Attributes:
        num_data: the number of data in the call.
        data_plates: the names of the plates over the data.
        outside: the factor of sites outside of these plates.
        outside_in_terms: their factor in the reported terms.
        scaled_by_hand: whether the program itself scales all sites of the data by N/B (`poutine.scale`).
    """

    num_data: int
    data_plates: Collection[str]
    outside: float
    outside_in_terms: float
    scaled_by_hand: bool = False

    def apply(self, msg: Any, rows: int | None) -> None:
        """Set the scale of a site, and note what it counts in the terms.

        Args:
            msg: Pyro's message of the site.
            rows: the number of rows that the program was called with, which are the data of the call, or
                several copies of them.
        """
        num_data = self.num_data if rows is None else rows
        in_plates, to_call, local = 1.0, 1.0, False
        for frame in msg["cond_indep_stack"]:
            full_size = frame.full_size if frame.full_size is not None else frame.size
            if full_size != frame.size:
                in_plates *= full_size / frame.size
            if frame.name in self.data_plates:
                local = True
                # From all data, to which the plate scales up, down to those of this call.
                to_call = 1.0 if full_size < 0 else num_data / full_size
        if not local:
            msg["scale"] = self.outside * msg["scale"]
            msg[_COUNTS] = self.outside_in_terms * in_plates
            return
        if self.scaled_by_hand:
            msg["scale"] = in_plates
        if to_call != 1.0:
            msg["scale"] = to_call * msg["scale"]
        msg[_COUNTS] = to_call * in_plates


class _Reweight(Messenger):
    """A handler that multiplies the log densities of the named sites, and of all latents, by weights.

    The role is asked for in each run, since a latent may be sampled in some runs only.
    """

    def __init__(self, weights: Mapping[str, float | Tensor], latents: float | Tensor) -> None:
        super().__init__()
        self.weights, self.latents = weights, latents
        self.rows: int | None = None  # the number of rows that the program was called with

    def of_role(self, msg: Any) -> float | Tensor:
        """Return the weight of a site that is not named."""
        return 1.0 if msg["is_observed"] else self.latents

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        # Not poutine.scale, which refuses 0, the first weight of every warm-up.
        msg["scale"] = self.weights.get(msg["name"], self.of_role(msg)) * msg["scale"]


class _ReweightOne(_Reweight):
    """The same for one program of a pair, where the latents are those that the guide samples.

    The guide runs first and notes them. What the sites count in a minibatch is applied too.
    """

    def __init__(
        self,
        weights: Mapping[str, float | Tensor],
        latents: float | Tensor,
        counting: Counting | None,
        noted: set[str],
        is_guide: bool,
    ) -> None:
        super().__init__(weights, latents)
        self.counting, self.noted, self.is_guide = counting, noted, is_guide

    def of_role(self, msg: Any) -> float | Tensor:
        if self.is_guide and not msg["is_observed"]:
            self.noted.add(msg["name"])
        return self.latents if msg["name"] in self.noted else 1.0

    def _pyro_sample(self, msg: Any) -> None:
        if self.counting is not None and not site_is_subsample(msg):
            self.counting.apply(msg, self.rows)
        super()._pyro_sample(msg)


@dataclass(frozen=True, eq=False)
class _Reweighted:
    """A program with weighted sites. It shows the program itself, see `unweighted`."""

    program: Program
    handler: _Reweight

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.handler.rows = Arguments(args, kwargs).num_data
        with self.handler:
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
    if all(map(_is_one, (latents, *weights.values()))):
        return program
    return _Reweighted(program, _Reweight(weights, latents))


def unweighted(program: Program) -> Program:
    """Return the program without the weights that `reweight` gave to its sites."""
    return unweighted(program.program) if isinstance(program, _Reweighted) else program


def reweight_pair(
    pair: ModelAndGuide,
    weights: Mapping[str, float | Tensor],
    latents: float | Tensor = 1.0,
    counting: Counting | None = None,
) -> ModelAndGuide:
    """Return the pair with the sites of both programs weighted.

    Args:
        pair: a pair.
        weights: numbers, or tensors `()`, by the name of a site.
        latents: the weight of each latent that the guide samples and that is not named.
        counting: what the sites count in a minibatch. None means that each counts as in the program.
    """
    if counting is None and all(map(_is_one, (latents, *weights.values()))):
        return pair
    noted: set[str] = set()
    return with_programs(
        pair,
        _Reweighted(pair.model, _ReweightOne(weights, latents, counting, noted, is_guide=False)),
        _Reweighted(pair.guide, _ReweightOne(weights, latents, counting, noted, is_guide=True)),
    )


def _is_one(weight: float | Tensor) -> bool:
    return not isinstance(weight, Tensor) and weight == 1.0


def count_of(site: Mapping[str, Any]) -> float:
    """Return what a site counts in the terms of a minibatch; 1 outside of training."""
    count: float = site.get(_COUNTS, 1.0)
    return count


def counted_log_prob(site: Mapping[str, Any]) -> Tensor:
    """Return a site's log density without its weights, times what it counts in a minibatch.

    `trace.compute_log_prob` must have been called before.
    """
    return unscaled_log_prob(site) * count_of(site)
