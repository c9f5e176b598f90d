"""Run a pair: the guide, then the model replayed on the guide's draws."""

from __future__ import annotations

from typing import Any

from pyro import poutine
from pyro.distributions import Categorical
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace

from pyrovae.programs.distributions import has_mean
from pyrovae.programs.pair import ModelAndGuide, Program


def run_pair(pair: ModelAndGuide, /, *args: Any, **kwargs: Any) -> tuple[Trace, Trace]:
    """Trace the guide, then the model replayed on the guide's draws.

    Returns:
        The model's trace and the guide's, without the sites of `pyro.plate` itself.
    """
    guide_trace = poutine.trace(pair.guide).get_trace(*args, **kwargs)
    model_trace = traced(poutine.replay(pair.model, trace=guide_trace), *args, **kwargs)
    guide_trace = poutine.util.prune_subsample_sites(guide_trace)
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
