"""Run a pair: the guide, then the model replayed on the guide's draws."""

from __future__ import annotations

from typing import Any

from pyro import poutine
from pyro.distributions import Categorical
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace

from pyrovae.errors import InputError
from pyrovae.programs.distributions import has_mean
from pyrovae.programs.pair import ModelAndGuide, Program
from pyrovae.programs.sites import latent_sites


def run_pair(pair: ModelAndGuide, *args: Any) -> tuple[Trace, Trace]:
    """Trace the guide, then the model replayed on the guide's draws.

    Returns:
        The model's trace and the guide's, without the sites of `pyro.plate` itself.

    Raises:
        InputError: the model has a latent site that the guide lacks, or the other way round.
    """
    guide_trace = poutine.trace(pair.guide).get_trace(*args)
    model_trace = traced(poutine.replay(pair.model, trace=guide_trace), *args)
    guide_trace = poutine.util.prune_subsample_sites(guide_trace)
    auxiliary = {
        name for name, site in guide_trace.nodes.items() if site.get("infer", {}).get("is_auxiliary")
    }
    _check_same_latents(set(latent_sites(model_trace)), set(latent_sites(guide_trace)) - auxiliary)
    return model_trace, guide_trace


def traced(program: Program, /, *args: Any, **kwargs: Any) -> Trace:
    """Run a program and return its trace, without the sites of `pyro.plate` itself."""
    return poutine.util.prune_subsample_sites(poutine.trace(program).get_trace(*args, **kwargs))


class _AtMeans(Messenger):
    """Sets each latent to the mean of its distribution, or to the mode if it is a class."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["value"] is not None or poutine.util.site_is_subsample(msg):
            return
        if isinstance(fn := msg["fn"], Categorical):
            msg["value"] = fn.probs.argmax(-1)  # the mode, since a class has no mean
        elif has_mean(fn):
            msg["value"] = fn.mean


def at_means(program: Program) -> Program:
    """Return the program with each latent at its mean, and each class at its mode.

    A latent with neither, such as a Cauchy variable, is drawn.
    """
    handled: Program = _AtMeans()(program)
    return handled


def _check_same_latents(in_model: set[str], in_guide: set[str]) -> None:
    if missing := sorted(in_model - in_guide):
        raise InputError(
            f"the guide has no site for the model's latent {_names_of(missing)} (its latents are "
            f"{_names_of(sorted(in_guide)) or 'none'}): sample every latent of the model in the guide, "
            "under the same name."
        )
    if surplus := sorted(in_guide - in_model):
        raise InputError(
            f"the guide samples {_names_of(surplus)}, which the model does not have among its latents "
            f"({_names_of(sorted(in_model)) or 'none'}): rename the site, or add it to the model."
        )


def _names_of(sites: list[str]) -> str:
    return ", ".join(repr(site) for site in sites)
