"""The terms of the ELBO, computed from the traces of a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.objectives.weights import counted_log_prob
from pyrovae.programs.densities import enumeration_weights, zero_like_densities
from pyrovae.programs.sites import latent_sites, observed_sites


@dataclass
class Terms:
    """The ELBO's terms, summed over the batch and averaged over particles, without any weight.

    Args:
        num_particles: the number of draws of the latents in the average. A trace holds one of them, or all.
    """

    num_particles: int = 1
    kl: Any = 0.0
    observed: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, model_trace: Trace, guide_trace: Trace) -> None:
        """Add the terms of one run of the pair. Enumerated values are weighted by their probability."""
        weights = enumeration_weights(guide_trace)

        def expected(trace: Trace, name: str) -> Tensor:
            return (weights * counted_log_prob(trace.nodes[name])).sum() / self.num_particles

        for name in observed_sites(model_trace):
            self.observed[name] = self.observed.get(name, 0.0) + expected(model_trace, name)
        in_model = set(latent_sites(model_trace))
        for name in (*latent_sites(guide_trace), *observed_sites(guide_trace)):
            part = expected(guide_trace, name)
            self.kl = self.kl + (part - expected(model_trace, name) if name in in_model else part)
        self._zero = zero_like_densities(model_trace)

    def add_values(self, values: Mapping[str, Tensor], model_trace: Trace) -> None:
        """Add terms of one run by name: `kl`, and a term for each observed site, or several together."""
        for name, value in values.items():
            value = value / self.num_particles
            if name == "kl":
                self.kl = self.kl + value
            else:
                self.observed[name] = self.observed.get(name, 0.0) + value
        self._zero = zero_like_densities(model_trace)

    def named(self) -> dict[str, Tensor]:
        """Return the terms by name: those of the observed sites, `kl` and `reconstruction`."""
        kl = self.kl if isinstance(self.kl, Tensor) else self._zero
        return self.observed | {"kl": kl, "reconstruction": sum(self.observed.values(), self._zero)}
