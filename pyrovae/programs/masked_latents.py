"""Latents that a mask takes out of the model.

Where the model masks a latent, nothing else depends on it: the latent is not there. An example is
`pyro.sample("y", fn, obs=x, obs_mask=mask)`, whose latent `y_unobserved` is masked where y was observed. So
the guide's density of it does not count there either, whether the guide has the same mask or none. Without
this rule, log q would be subtracted for numbers that log p does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta, Independent, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.compute.devices import seeded
from pyrovae.errors import InputError
from pyrovae.programs.copies import lift_mask
from pyrovae.programs.densities import unscaled_log_prob
from pyrovae.programs.distributions import base_of
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.rows import Arguments
from pyrovae.programs.running import traced
from pyrovae.programs.sites import is_sample, latent_sites
from pyrovae.programs.ways import close


class LiftedMasks(Messenger):
    """Turns the mask of a latent's distribution into that of its site: each value keeps its density.

    Where a class is masked its values are still summed over, so their probabilities must add up to 1.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            lift_mask(msg)


def count_as_in_model(model_trace: Trace, guide_trace: Trace) -> None:
    """Mask the guide's drawn latents wherever the model masks them.

    Args:
        model_trace: the trace of the model under `LiftedMasks`, replayed on the guide's draws.
        guide_trace: the trace of the guide, which is changed.
    """
    for name in _in_both(model_trace, guide_trace):
        mask = model_trace.nodes[name]["mask"]
        if mask is None or mask is True or mask is guide_trace.nodes[name]["mask"]:
            continue
        for site in _with_auxiliary(guide_trace, name):
            site["mask"] = mask if site["mask"] is None else site["mask"] & mask
            if "log_prob" in site:
                site["log_prob"] = scale_and_mask(site["log_prob"], mask=mask)
            if "score_parts" in site:
                site["score_parts"] = site["score_parts"].scale_and_mask(1.0, mask)


def check_masks(pair: ModelAndGuide, arguments: Arguments, model_trace: Trace, guide_trace: Trace) -> None:
    """Refuse latents that only the guide masks, and latents that the model masks and uses all the same.

    Args:
        pair: the pair.
        arguments: the arguments of the run.
        model_trace: the trace of the model, replayed on the guide's draws.
        guide_trace: the trace of the guide.

    Raises:
        InputError: there is such a latent. The message names it.
    """
    alone = {}
    for name in _in_both(model_trace, guide_trace):
        p, q = model_trace.nodes[name], guide_trace.nodes[name]
        in_model, in_guide = _counted(p), _counted(q)
        if in_model is None and in_guide is None:
            continue
        is_point = isinstance(base_of(q["fn"]), Delta)
        if is_point and not _auxiliary(guide_trace):
            continue  # a point has no density that could be subtracted
        in_model, in_guide = _alike(in_model, in_guide, p["fn"].event_dim)
        if (in_model & ~in_guide).any():
            raise InputError(
                f"the guide masks the latent '{name}' where the model does not, so its density in the "
                "model would count without its density in the guide: put the mask into the model too, by "
                f"poutine.mask(mask=...) around '{name}', or leave it out of the guide."
            )
        if (in_guide & ~in_model).any():
            if is_point and len(_with_auxiliary(guide_trace, name)) == 1:
                raise InputError(
                    f"the model masks the latent '{name}', but the guide sets it from an auxiliary latent "
                    f"({', '.join(map(repr, _auxiliary(guide_trace)))}), whose density counts all the "
                    f"same: draw '{name}' from a distribution of its own, or use AutoNormal."
                )
            if in_model.dim() > len(p["fn"].batch_shape):
                raise InputError(
                    f"the model masks single elements of the latent '{name}', and the guide does not, so "
                    "log q would count elements that log p does not hold: put the same mask into the guide."
                )
            alone[name] = in_model
    if alone:
        _check_without_effect(pair, arguments, model_trace, guide_trace, alone)


def _in_both(model_trace: Trace, guide_trace: Trace) -> list[str]:
    """Return the names of the latents that the guide draws for the model."""
    return [
        name
        for name in latent_sites(guide_trace)
        if name in model_trace.nodes and not guide_trace.nodes[name]["infer"].get("enumerate")
    ]


def _auxiliary(guide_trace: Trace) -> list[str]:
    sites = guide_trace.nodes
    return [name for name in latent_sites(guide_trace) if sites[name]["infer"].get("is_auxiliary")]


def _with_auxiliary(guide_trace: Trace, name: str) -> list[dict[str, Any]]:
    """Return a latent's site, and that of the auxiliary latent from which `AutoNormal` sets it."""
    auxiliary = guide_trace.nodes.get(f"{name}_unconstrained")
    of_its_own = auxiliary is not None and auxiliary["infer"].get("is_auxiliary")
    return [guide_trace.nodes[name], *([auxiliary] if of_its_own else [])]


def _counted(site: Mapping[str, Any]) -> Tensor | None:
    """Return where the density of a latent counts, `(*batch_shape, ...)`; None if it does everywhere.

    The mask of a distribution beneath `to_event` has the dimensions of the event beside it.
    """
    fn = site["fn"]
    inside = _mask_within(fn)
    outside = None if site["mask"] is None or site["mask"] is True else torch.as_tensor(site["mask"])
    if outside is None or inside is None:
        return inside if outside is None else outside.expand(fn.batch_shape)
    more = inside.dim() - len(fn.batch_shape)
    return inside & outside.expand(fn.batch_shape).reshape(*fn.batch_shape, *[1] * more)


def _mask_within(fn: Any) -> Tensor | None:
    if isinstance(fn, Independent):
        return _mask_within(fn.base_dist)
    if not isinstance(fn, MaskedDistribution):
        return None
    own = torch.as_tensor(fn._mask).expand(fn.batch_shape)
    deeper = _mask_within(fn.base_dist)
    if deeper is None:
        return own
    return deeper & own.reshape(*own.shape, *[1] * (deeper.dim() - own.dim()))


def _alike(one: Tensor | None, other: Tensor | None, most: int) -> tuple[Tensor, Tensor]:
    """Bring two results of `_counted` to the same dimensions. None counts everywhere."""
    given = [mask for mask in (one, other) if mask is not None]
    dims = max(mask.dim() for mask in given)
    everywhere = torch.ones((), dtype=torch.bool, device=given[0].device)
    first, second = (
        everywhere if mask is None else mask.reshape(*mask.shape, *[1] * min(most, dims - mask.dim()))
        for mask in (one, other)
    )
    first, second = torch.broadcast_tensors(first, second)
    return first, second


def _check_without_effect(
    pair: ModelAndGuide,
    arguments: Arguments,
    model_trace: Trace,
    guide_trace: Trace,
    counted: Mapping[str, Tensor],
) -> None:
    """Refuse a latent that the model masks, but whose value other sites use."""
    other = poutine.trace(pair.guide).get_trace(*arguments.args, **arguments.kwargs)
    changed = guide_trace.copy()
    for name, mask in counted.items():
        value, drawn = guide_trace.nodes[name]["value"], other.nodes[name]["value"]
        where = mask.reshape(*mask.shape, *[1] * guide_trace.nodes[name]["fn"].event_dim)
        changed.nodes[name] = {**guide_trace.nodes[name], "value": torch.where(where, value, drawn)}
    runs = []
    for guide in (guide_trace, changed):
        with seeded(0, arguments.args[0].device):
            run = traced(poutine.replay(pair.model, trace=guide), *arguments.args, **arguments.kwargs)
        run.compute_log_prob()
        runs.append(run)
    for name, site in model_trace.nodes.items():
        if is_sample(site) and name in runs[1] and name not in counted:
            one, two = (unscaled_log_prob(run.nodes[name]) for run in runs)
            if not close(one, two):
                masked = ", ".join(f"'{each}'" for each in counted)
                raise InputError(
                    f"the model masks the latent {masked}, and the density of '{name}' depends on it all "
                    "the same, so no prior belongs to its values: leave the mask out of the model, or use "
                    "the latent only where the mask is true."
                )
