"""The sites whose log densities form log p(x, z) and log q(z | x), each once and none left out.

    log p   the latents that the guide samples, those that are summed out, observed sites, factors
    log q   the latents that the guide draws, and its auxiliary draws that fix a latent's value

Other sites do not count. A latent of the model alone, on which nothing depends, integrates to 1. A factor
or an observed site of the guide is a term of training, except where a factor states the density of a
latent that the guide sets by a `Delta`. A global latent at a point is a parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine

from pyrovae.errors import InputError
from pyrovae.programs.change_of_variables import check_change_of_variables
from pyrovae.programs.distributions import base_of
from pyrovae.programs.modes import nothing_moves
from pyrovae.programs.running import traced
from pyrovae.programs.structure import Structure


@dataclass(frozen=True)
class Accounting:
    """The part of each site in log p(x, z) - log q(z | x), by the site's name.

    Attributes:
        log_p: the model's sites that count.
        log_q: the guide's sites that count.
        summed_out: the enumerated sites, of the guide or of the model alone.
        in_model_alone: those of them that the guide lacks.
        parameters: the global latents that the guide sets to a point.
        training_terms: the guide's factors and observed sites that do not count.
    """

    log_p: tuple[str, ...]
    log_q: tuple[str, ...]
    summed_out: tuple[str, ...]
    in_model_alone: tuple[str, ...]
    parameters: tuple[str, ...]
    training_terms: tuple[str, ...]


def accounting(of: Structure, enumerate: bool = True) -> Accounting:
    """Find the part of each site of a pair in its importance weights.

    Args:
        of: the structure of a pair.
        enumerate: whether the sites that the guide marks for enumeration are summed out. If not, they are
            drawn.

    Raises:
        InputError: the densities of the sites do not form an importance weight. The message names the site.
    """
    unused, summed_in_model = missing_in_guide(of)
    summed = _summed_in_guide(of) if enumerate else ()
    deltas = _deltas(of)
    points = [name for name in deltas if bool((base_of(_in_guide(of, name)["fn"]).log_density == 0).all())]
    fixed = _fixed_by_auxiliaries(of, deltas)
    still = _unmoved(of, [name for name in deltas if name not in fixed])
    parameters = [name for name in points if name in still and of[name].scope == "global"]
    _check_moved(still - {*parameters})
    stated = _densities_stated_by_factors(of, [name for name in points if name not in parameters], fixed)
    drawn = [name for name in of.latents if name not in {*of.model_only, *summed, *parameters}]
    guide_only = [name for name, site in of.sites.items() if site.program == "guide"]
    terms = [name for name in guide_only if of[name].role in ("factor", "observed") and name not in stated]
    terms += [name for name in of.observed if of.traces.guide is not None and name in of.traces.guide.nodes]
    return Accounting(
        log_p=tuple(
            name
            for name, site in of.sites.items()
            if site.program == "model"
            and site.role != "deterministic"
            and name not in {*unused, *parameters}
        ),
        log_q=(*drawn, *(name for name in of.auxiliary if name not in summed), *stated),
        summed_out=(*summed, *summed_in_model),
        in_model_alone=summed_in_model,
        parameters=tuple(parameters),
        training_terms=tuple(terms),
    )


def _summed_in_guide(of: Structure) -> tuple[str, ...]:
    """Return the sites that the guide enumerates in full. Those with `num_samples` are drawn."""
    guide = of.traces.guide
    return tuple(
        name
        for name in of.enumerated
        if guide is not None and name in guide.nodes and not guide.nodes[name]["infer"].get("num_samples")
    )


def missing_in_guide(of: Structure) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Find what becomes of the model's latents that the guide lacks.

    Returns:
        The predicted latents, on which no other site depends: their densities integrate to 1. And the
        latents that are summed out: a site depends on them, and they have finitely many values.

    Raises:
        InputError: a site depends on such a latent, which cannot be summed out. The message names both.
    """
    summed: list[str] = []
    for name in reversed(of.model_only):
        if name in of.predicted:
            continue
        if has_finite_support(of.traces.model.nodes[name]["fn"]):
            summed.append(name)
        else:
            known = ", ".join(map(repr, (*of.traces.guide.stochastic_nodes,))) if of.traces.guide else ""
            dependent = min(of.children(name) - {*of.predicted})
            raise InputError(
                f"the guide has no site for the model's latent '{name}' ({of[name].distribution}; the "
                f"guide's latents are {known or 'none'}), on which '{dependent}' depends: sample "
                f"'{name}' in the guide, under the same name."
            )
    return of.predicted, tuple(reversed(summed))


def has_finite_support(fn: object) -> bool:
    """Whether a distribution has finitely many values, so that a site can be summed out."""
    base = base_of(fn)
    if isinstance(base, dist.Binomial):
        return bool((base.total_count == base.total_count.max()).all())
    return bool(getattr(base, "has_enumerate_support", False))


def _in_guide(of: Structure, name: str) -> Mapping[str, Any]:
    """Return a site of the guide, a node of its trace."""
    assert of.traces.guide is not None
    site: Mapping[str, Any] = of.traces.guide.nodes[name]
    return site


def _deltas(of: Structure) -> list[str]:
    """Return the model's latents that the guide sets by a `Delta`."""
    if of.traces.guide is None:
        return []
    shared = [name for name in of.latents if name not in of.model_only]
    return [name for name in shared if isinstance(base_of(_in_guide(of, name)["fn"]), dist.Delta)]


def _unmoved(of: Structure, names: Collection[str]) -> set[str]:
    """Return which of these sites of the guide have the same value in another run, with other draws."""
    if not names or of.guide is None:
        return set()
    with nothing_moves(of.guide), poutine.block():
        torch.manual_seed(torch.initial_seed() + 1)  # not the draws of the first run
        again = traced(of.guide, *of.args, **of.kwargs)
    return {name for name in names if torch.equal(again.nodes[name]["value"], _in_guide(of, name)["value"])}


def _check_moved(points: Collection[str]) -> None:
    """Refuse latents that are at one point in each run, and not parameters."""
    if points:
        raise InputError(
            f"the guide sets '{min(points)}' to a point (a Delta), so q has no density there and there is "
            "no importance weight: draw the latent from a distribution, or set it from a draw by a Delta "
            "with the draw's log_density."
        )


def _fixed_by_auxiliaries(of: Structure, deltas: Collection[str]) -> set[str]:
    """Return the latents that an auxiliary draw fixes, as in Pyro's autoguides.

    Raises:
        InputError: an auxiliary draw fixes no latent's value, or its log density and that of the `Delta`
            are not those of the change of variables, so the guide's density is not known.
    """
    if of.traces.guide is None or not of.auxiliary:
        return set()
    fixed_by = {
        name: {child for parent, child in of.inference_edges if parent == name} for name in of.auxiliary
    }
    for name, children in fixed_by.items():
        if not children or not children <= {*deltas}:
            other = min(children - {*deltas}, default=None)
            raise InputError(
                f"the guide's auxiliary site '{name}' "
                + (f"enters '{other}', which has a density of its own" if other else "fixes no latent")
                + ", so the density q(z | x) of the latents alone is not known and there is no importance "
                "weight: let a Delta with the log density of the change of variables set the latent from "
                f"'{name}', or remove '{name}'."
            )
    for name, children in fixed_by.items():
        check_change_of_variables(of, name, sorted(children))
    return set().union(*fixed_by.values())


def _densities_stated_by_factors(
    of: Structure, points: Collection[str], fixed: Collection[str]
) -> tuple[str, ...]:
    """Return the guide's factor that states the density of the latents at points; empty without points.

    Args:
        of: the structure of a pair.
        points: the latents that the guide sets by a `Delta` without a log density.
        fixed: the latents that auxiliary draws fix.

    Raises:
        InputError: a point has no density, or it is not clear what a factor stands for.
    """
    factors = [name for name, site in of.sites.items() if site.program == "guide" and site.role == "factor"]
    without = [name for name in points if name not in fixed]
    if not factors:
        if without:
            raise InputError(
                f"the guide sets '{without[0]}' by a Delta without a log density, so the density of its "
                "draws is not known and there is no importance weight: draw the latent from a "
                "distribution, or give the Delta its log_density."
            )
        return ()
    others = [name for name in of.drawn if name not in without and name not in of.model_only]
    if points and (others or len(factors) > 1):
        beside = f"'{others[0]}' has a density of its own" if others else f"there is also '{factors[1]}'"
        raise InputError(
            f"the guide's factor '{factors[0]}' may be the log density of '{min(points)}', which a Delta "
            f"sets, or a term of training, since {beside}: give the Delta its density by log_density=..., "
            "and keep the factor for terms of training."
        )
    return tuple(factors) if points else ()
