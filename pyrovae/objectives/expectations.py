"""Expectations under a guide whose enumerated sites are several, dependent, nested, or of `pyro.markov`.

Pyro's `Dice` weighs each density by the probability of the enumerated values that it depends on. Sites that
only the model has are summed out before: log p(x, z) = log sum_y p(x, y, z). Values and gradients are those
of Pyro's `TraceEnum_ELBO`.

The usual case, one enumerated site under one plate, needs none of this (`is_simple`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.infer.util import Dice
from pyro.ops import packed
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.objectives.packing import Ordinal, Packed, contracted, ordinal_of, pack, readable
from pyrovae.objectives.weights import count_of
from pyrovae.programs.copies import PARTICLES
from pyrovae.programs.densities import enumerated_sites, sample_sites
from pyrovae.programs.reparameterisation import check_gradient_flows
from pyrovae.programs.sites import latent_sites, observed_sites, role_of


def is_simple(model_trace: Trace, guide_trace: Trace, apart: Collection[str] = ()) -> bool:
    """Whether at most one site is enumerated, by the guide and in full, and all sites have one plate alone.

    Without an enumerated site, plates may be as they like.

    Args:
        model_trace: the trace of the model.
        guide_trace: the trace of the guide.
        apart: the names of sites that may lie anywhere. They do not depend on an enumerated site elsewhere.
    """
    enumerated = enumerated_sites(guide_trace)
    if not enumerated_sites(model_trace) and not enumerated:
        return True
    in_full = len(enumerated) == 1 and guide_trace.nodes[enumerated[0]]["infer"].get("num_samples") is None
    if not in_full or enumerated[0] in apart or set(enumerated_sites(model_trace)) - set(enumerated):
        return False
    plates = {
        tuple((f.name, f.dim) for f in site["cond_indep_stack"] if f.vectorized and f.name != PARTICLES)
        for trace in (model_trace, guide_trace)
        for site in sample_sites(trace)
        if role_of(site) != "deterministic" and site["name"] not in apart
    }
    return len(plates) == 1 and len(plates.pop()) == 1


class Cost(NamedTuple):
    """A part of the bound.

    Attributes:
        term: the name of the term that it belongs to: `kl` or an observed site.
        ordinal: its plates.
        scaled: its log density with its scale, packed.
        unscaled: its log density without scale, packed.
    """

    term: str
    ordinal: Ordinal
    scaled: Packed
    unscaled: Packed


class Expectation:
    """Expectations under a guide, from one run of a pair.

    Args:
        model_trace: the trace of the model.
        guide_trace: the trace of the guide, with score parts.

    Attributes:
        entangled: the model's sites that depend on sites that only the model enumerates.

    Raises:
        InputError: the guide draws a latent that is not reparameterised; sites that depend on a site that
            only the model enumerates have different weights; or Pyro cannot sum over the sites.
    """

    def __init__(self, model_trace: Trace, guide_trace: Trace) -> None:
        check_gradient_flows(guide_trace)
        _check_scales(model_trace, guide_trace)
        self.model, self.guide = pack(model_trace, guide_trace)
        with readable(self.model, self.guide):
            _, self._factors, ordering, self._sum_dims, self._scale = _compute_model_factors(
                self.model, self.guide
            )
            self._dice = Dice(_as_dice_reads_it(self.guide), ordering)
        self.entangled = [
            name
            for name, site in self.model.nodes.items()
            if site["type"] == "sample"
            and not self._sum_dims.isdisjoint(site["packed"]["log_prob"]._pyro_dims)
        ]

    def costs(self) -> list[Cost]:
        """Return the parts of the bound: log p of the model's sites, and minus log q of the guide's."""
        observed = observed_sites(self.model)
        costs = [
            self._cost(self.model, name, name if name in observed else "kl")
            for name in (*observed, *latent_sites(self.model))
            if name not in self.entangled
        ]
        if self._factors:
            term = ", ".join(name for name in observed if name in self.entangled) or "kl"
            count = count_of(self.model.nodes[self.entangled[0]])
            with readable(self.model, self.guide):
                marginals = contracted(self._factors, self._sum_dims)
            costs += [
                Cost(
                    term,
                    ordinal,
                    packed.scale_and_mask(value, self._scale),
                    packed.scale_and_mask(value, count),
                )
                for ordinal, value in marginals
            ]
        for name in (*observed_sites(self.guide), *latent_sites(self.guide)):
            costs.append(self._minus_log_q(name))
        return costs

    def training(self, names: Collection[str]) -> list[Cost]:
        """Return the parts of the bound for the named sites of the guide: minus their log densities."""
        return [self._minus_log_q(name) for name in names]

    def divergence(self, name: str) -> list[Cost]:
        """Return the parts of minus the divergence of a latent: log p and minus log q."""
        return [self._cost(self.model, name, "kl"), self._minus_log_q(name)]

    def _minus_log_q(self, name: str) -> Cost:
        cost = self._cost(self.guide, name, "kl")
        return cost._replace(scaled=packed.neg(cost.scaled), unscaled=packed.neg(cost.unscaled))

    def _cost(self, trace: Trace, name: str, term: str) -> Cost:
        site = trace.nodes[name]
        unscaled = packed.scale_and_mask(
            site["packed"]["unscaled_log_prob"], count_of(site), site["packed"]["mask"]
        )
        return Cost(term, ordinal_of(trace, name), site["packed"]["log_prob"], unscaled)

    def total(self, costs: Iterable[Cost], scaled: bool = True) -> Any:
        """Return the expected sum of the costs, with the gradient of `TraceEnum_ELBO`."""
        by_ordinal: dict[Ordinal, list[Packed]] = {}
        for cost in costs:
            by_ordinal.setdefault(cost.ordinal, []).append(cost.scaled if scaled else cost.unscaled)
        return self._dice.compute_expectation(by_ordinal)

    def terms(self, costs: Iterable[Cost]) -> dict[str, Tensor]:
        """Return the terms of the bound by name, without scales and gradients; `kl` with its sign.

        One pass gives all of them. The expectation is linear in the costs, so its derivative for a factor 1
        before the costs of a term is the term.
        """
        costs = list(costs)
        names = list(dict.fromkeys(cost.term for cost in costs))
        if not names:
            return {}
        like = costs[0].unscaled
        with torch.enable_grad():
            ones = torch.ones(len(names), dtype=like.dtype, device=like.device, requires_grad=True)
            weighted = []
            for cost in costs:
                value: Packed = cost.unscaled.detach() * ones[names.index(cost.term)]
                value._pyro_dims = cost.unscaled._pyro_dims
                weighted.append(cost._replace(unscaled=value))
            (values,) = torch.autograd.grad(self.total(weighted, scaled=False), ones)
        found = dict(zip(names, values, strict=True))
        return {name: -value if name == "kl" else value for name, value in found.items()}


def _as_dice_reads_it(guide_trace: Trace) -> Trace:
    """Return the guide's packed trace in the form that Pyro's `Dice` reads rightly.

    A site that is marked for sequential enumeration has been drawn here. The weight 1/S of draws with a
    gradient gets the type of their densities.
    """
    copy = guide_trace.copy()
    for name, site in guide_trace.nodes.items():
        if site["type"] != "sample":
            continue
        if site["infer"].get("_enumerate_dim") is None:
            infer = {key: value for key, value in site["infer"].items() if key != "enumerate"}
            copy.nodes[name] = {**site, "infer": infer}
        elif is_identically_zero((parts := site["packed"]["score_parts"]).score_function):
            zero: Packed = site["log_prob"].new_zeros(())
            zero._pyro_dims = ""
            parts = parts._replace(score_function=zero)
            copy.nodes[name] = {**site, "packed": {**site["packed"], "score_parts": parts}}
    return copy


def _check_scales(model_trace: Trace, guide_trace: Trace) -> None:
    """Refuse different weights where a site that only the model enumerates is summed out."""
    alone = [name for name in enumerated_sites(model_trace) if name not in guide_trace.nodes]
    if not alone:
        return
    dims = {model_trace.nodes[name]["infer"]["_enumerate_dim"] for name in alone}
    scales = {}
    for site in sample_sites(model_trace):
        shape = site["log_prob"].shape
        if site["name"] in alone or any(len(shape) >= -dim and shape[dim] > 1 for dim in dims):
            scales[site["name"]] = site["scale"]
    if any(isinstance(scale, Tensor) and scale.dim() for scale in scales.values()):
        found = ", ".join(f"'{n}': {tuple(s.shape)}" for n, s in scales.items() if isinstance(s, Tensor))
        raise InputError(
            f"sites have a weight for each datum (shapes {found}), but they depend on {alone}, which the "
            "guide lacks and which is summed out: sample it in the guide, with "
            "infer={'enumerate': 'parallel'}, or leave the weights out."
        )
    if len({float(scale) for scale in scales.values()}) > 1:
        found = ", ".join(f"'{name}': {float(scale):g}" for name, scale in scales.items())
        raise InputError(
            f"the sites that depend on {alone}, which the guide lacks and which is summed out, have "
            f"different weights ({found}), but the logarithm of a sum has one weight: leave weights and "
            "beta at 1, or sample the site in the guide, with infer={'enumerate': 'parallel'}."
        )
