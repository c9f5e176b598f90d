"""The latents of a model that the guide lacks.

Such a latent is left out of a bound if nothing that counts depends on it: its density integrates to 1. If
something depends on it, it is summed out, which needs a finite support.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace

from pyrovae.errors import InputError
from pyrovae.programs.accounting import missing_in_guide
from pyrovae.programs.densities import trace_log_probs
from pyrovae.programs.modes import nothing_moves
from pyrovae.programs.pair import Program
from pyrovae.programs.running import traced
from pyrovae.programs.structure import Structure
from pyrovae.programs.ways import close

_TRIALS = 8  # draws of the latents that are left out, to see whether a density changes with them


class ModelLatents(NamedTuple):
    """The treatment of the latents that only the model has.

    Attributes:
        left_out: the names of those on which nothing that counts depends.
        summed_out: the names of those that are summed out, marked for enumeration or not.
    """

    left_out: frozenset[str] = frozenset()
    summed_out: frozenset[str] = frozenset()


def model_latents(of: Structure) -> ModelLatents:
    """Find the treatment of the latents that only the model of a pair has.

    Raises:
        InputError: a site depends on such a latent, and it cannot be summed out; or it depends on it in a
            way that cannot be followed, such as a branch of Python.
    """
    left_out, summed_out = missing_in_guide(of)
    for name in summed_out:
        if of.traces.model.nodes[name]["infer"].get("num_samples") is not None:
            raise InputError(
                f"the model's site '{name}' has infer={{'num_samples': ...}}, and the guide lacks it: "
                "draws from the model have no right gradient. Remove num_samples, so that the site is "
                "summed out, or sample it in the guide."
            )
    _check_independent(of, left_out, summed_out)
    return ModelLatents(frozenset(left_out), frozenset(summed_out))


def with_model_latents(model: Program, latents: ModelLatents) -> Program:
    """Return the model without the latents that are left out. The others are marked for enumeration."""
    if latents.summed_out:
        model = _Marked(latents.summed_out)(model)
    if latents.left_out:
        model = poutine.block(model, hide=sorted(latents.left_out))
    return model


class _Marked(Messenger):
    """A handler that marks the named sites for enumeration."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            msg["infer"] = {**msg["infer"], "enumerate": "parallel"}


def _check_independent(of: Structure, left_out: Collection[str], summed_out: Collection[str]) -> None:
    """Run the model with several draws of the latents that are left out, and compare its densities."""
    if not left_out:
        return
    model, given = of.model, Trace() if of.traces.guide is None else of.traces.guide.copy()
    for name in summed_out:
        given.nodes[name] = of.traces.model.nodes[name]
    hidden = poutine.block(poutine.replay(model, trace=given), hide=sorted(left_out))
    with nothing_moves(model), poutine.block():
        first, *others = [trace_log_probs(traced(hidden, *of.args, **of.kwargs)) for _ in range(_TRIALS)]
    for densities in others:
        changed = [
            name
            for name in first.keys() | densities.keys()
            if name not in first or name not in densities or not close(first[name], densities[name])
        ]
        if changed:
            raise InputError(
                f"the guide has no site for the model's latent {', '.join(map(repr, sorted(left_out)))}, "
                f"and the density of site '{min(changed)}' changes from run to run: sample every latent of "
                "the model in the guide, under the same name, or compute the distributions from it without "
                "a branch of Python."
            )
