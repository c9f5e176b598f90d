"""Runs of a pair for objectives, in the layout of `layouts.py`.

This module alone runs programs. All other modules read traces: values, log densities, masks, scales, plates
and `infer` of their sites. The distributions of sites have the layout's shapes only in the leading way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
from pyro import poutine
from pyro.infer.enum import get_importance_trace
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.objectives.layouts import Layout, arguments_of
from pyrovae.objectives.model_latents import with_model_latents
from pyrovae.programs.copies import PARTICLES, Extra, add_extras, run_copies
from pyrovae.programs.masked_latents import LiftedMasks, count_as_in_model
from pyrovae.programs.pair import Program
from pyrovae.programs.ways import LEADING


class Running:
    """The runs of a pair with the same arguments.

    Args:
        model: the model.
        guide: the guide.
        layout: the layout of the pair's dimensions.
        particles: the number of particles that run side by side; None if there is one, without a dimension.
        args: the arguments of both programs.
        kwargs: their keyword arguments.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        layout: Layout,
        particles: int | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self.layout, self.args, self.kwargs = layout, args, kwargs
        self.leading = layout.ways == LEADING
        self.particles = particles if self.leading else particles or 1
        self.model = with_model_latents(LiftedMasks()(model), layout.alone)
        self.guide: Program = LiftedMasks()(guide)

    def traces_with_scores(self, extras: Mapping[str, Extra]) -> tuple[Trace, Trace]:
        """Run both programs, and return the traces of model and guide with densities and score parts.

        Args:
            extras: further tensors of latents that ways other than the leading one keep, see `run_copies`.
        """
        if not self.leading:
            model_trace, guide_trace = self.replayed(self.drawn(extras), extras)
            model_trace.compute_log_prob()
            guide_trace.compute_score_parts()
            return model_trace, guide_trace
        nesting = self.layout.depth + (self.particles is not None)
        traces: tuple[Trace, Trace] = get_importance_trace(
            "flat", nesting, self._leading_model, self._leading_guide, self.args, dict(self.kwargs)
        )
        count_as_in_model(*traces)
        return traces

    def drawn(self, extras: Mapping[str, Extra] | None = None) -> Trace:
        """Return a trace of the guide."""
        if self.layout.ways.guide == "leading":
            trace = poutine.trace(self._leading_guide).get_trace(*self.args, **self.kwargs)
            add_extras(trace, extras or {})
            return trace
        copies = self.layout.of_guide(self.particles or 1)
        way = self.layout.ways.guide
        return run_copies(way, self.guide, self._arguments, copies, extras=extras)

    def drawn_again(self, given: Trace) -> Trace:
        """Return a trace of the guide with the values of another one."""
        if self.layout.ways.guide == "leading":
            guide = poutine.replay(self._under_particles(self.guide), trace=given)
            return poutine.trace(guide).get_trace(*self.args, **self.kwargs)
        copies = self.layout.of_guide(self.particles or 1)
        return run_copies(self.layout.ways.guide, self.guide, self._arguments, copies, given)

    def replayed(
        self, guide_trace: Trace, extras: Mapping[str, Extra] | None = None
    ) -> tuple[Trace, Trace]:
        """Run the model on the guide's draws, and return the traces of model and guide."""
        if self.layout.ways.model == "leading":
            model = poutine.replay(self._leading_model, trace=guide_trace)
            model_trace = poutine.trace(model).get_trace(*self.args, **self.kwargs)
            add_extras(model_trace, extras or {})
        else:
            copies = self.layout.of_model(self.particles or 1)
            way = self.layout.ways.model
            model_trace = run_copies(way, self.model, self._arguments, copies, guide_trace, extras)
        model_trace, guide_trace = map(poutine.util.prune_subsample_sites, (model_trace, guide_trace))
        count_as_in_model(model_trace, guide_trace)
        if not self.leading and self.layout.values > 1:
            self._name_dimensions(model_trace, guide_trace)
        return model_trace, guide_trace

    def _name_dimensions(self, model_trace: Trace, guide_trace: Trace) -> None:
        """Tell Pyro's algorithms which dimension belongs to the only enumerated site.

        A site of the model that does not depend on it has the same density for all of its values.
        """
        model_trace.compute_log_prob()
        for trace in (model_trace, guide_trace):
            for site in trace.nodes.values():
                if site["type"] == "sample":
                    site["infer"] = {**site["infer"], "_dim_to_id": {self._first_dim: 0}}
        for name in self.layout.independent & set(model_trace.nodes):
            site = model_trace.nodes[name]
            if site["type"] == "sample":
                parts = ("log_prob", "unscaled_log_prob", "mask")
                site |= {part: self._of_one_value(site[part]) for part in parts}

    def _of_one_value(self, part: Any) -> Any:
        has_values = isinstance(part, Tensor) and part.dim() >= -self._first_dim
        return part[:1] if has_values else part

    @property
    def _arguments(self) -> Any:
        return arguments_of(self.args, self.kwargs)

    @property
    def _first_dim(self) -> int:
        """The first dimension of enumerated values, next to that of the particles."""
        return -1 - self.layout.depth - (self.particles is not None)

    @property
    def _leading_guide(self) -> Program:
        guide: Program = EnumMessenger(first_available_dim=self._first_dim)(
            self._under_particles(self.guide)
        )
        return guide

    @property
    def _leading_model(self) -> Program:
        # The model's values get dimensions after (left of) the guide's.
        first = None if self.layout.ways.guide == "leading" else self._first_dim
        model: Program = EnumMessenger(first_available_dim=first)(self._under_particles(self.model))
        return model

    def _under_particles(self, program: Program) -> Program:
        """Return the program under the plate of particles, outside of all of its plates."""
        if self.particles is None:
            return program
        plated: Program = pyro.plate(PARTICLES, self.particles, dim=-1 - self.layout.depth)(program)
        return plated


def num_data(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Return the number of data in a call, the length of its first tensor.

    Raises:
        InputError: no argument is a tensor with a length.
    """
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim():
            return len(value)
    raise InputError(
        "no argument of the programs is a tensor of data: give the data as a tensor, (N, ...)."
    )
