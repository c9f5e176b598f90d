"""Run a pair: the guide, then the model replayed on the guide's draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.programs.distributions import is_discrete, mean_of, mode_of, name_of
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


class AtMeans(Messenger):
    """Sets each latent to the mean of its distribution, or to the mode if it is discrete, as a class is.

    A mean without a closed form is an average of draws, see `distributions.mean_of`.

    Args:
        known: values of latents by name, which take the place of their means.

    Attributes:
        drawn: the latents that have no mean, such as Cauchy variables, with the names of their
            distributions. They are drawn.
    """

    def __init__(self, known: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.known = known or {}
        self.drawn: dict[str, str] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["value"] is not None or poutine.util.site_is_subsample(msg):
            return
        fn = msg["fn"]
        if msg["name"] in self.known:
            msg["value"] = self.known[msg["name"]]
            return
        msg["value"] = mode_of(fn) if is_discrete(fn) else mean_of(fn)
        if msg["value"] is None:
            self.drawn[msg["name"]] = name_of(fn)


def at_means(program: Program) -> Program:
    """Return the program with each latent at its mean, or at its mode if it is discrete; see `AtMeans`."""
    handled: Program = AtMeans()(program)
    return handled
