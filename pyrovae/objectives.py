"""Which bound is optimised, and how its sites are weighted.

A model is a proper joint: weights such as beta belong to the objective. They are applied to named
sites of model and guide alike, during training only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import pyro.poutine as poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.programs import Program, latent_sites, observed_sites


class Objective(Protocol):
    """What `fit` minimises: any of Pyro's ELBOs that has a differentiable loss."""

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any: ...


class ELBO(Trace_ELBO):
    """Pyro's `Trace_ELBO`, which also keeps the two terms of its last evaluation.

    `terms` holds `reconstruction` = E_q[log p(x | z)] and `kl` = E_q[log q(z | x) - log p(z)], each
    summed over the batch, in nats, without any weight: elbo = reconstruction - kl.
    """

    terms: dict[str, Tensor]

    def _get_traces(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> Iterator[tuple[Trace, Trace]]:
        self.terms = {}
        for model_trace, guide_trace in super()._get_traces(model, guide, args, kwargs):
            latents = set(latent_sites(guide_trace))
            observed = _total(model_trace, observed_sites(model_trace))
            kl = _total(guide_trace, latents) - _total(model_trace, latents)
            for name, term in (("reconstruction", observed), ("kl", kl)):
                self.terms[name] = self.terms.get(name, 0.0) + term / self.num_particles
            yield model_trace, guide_trace


def _total(trace: Trace, names: Any) -> Any:
    return sum(unscaled_log_prob(trace.nodes[name]).sum().detach() for name in names)


def unscaled_log_prob(site: Mapping[str, Any]) -> Tensor:
    """A site's log density with its mask and without its scale (call `compute_log_prob` before).

    A scale, be it a beta or a plate's N/B, has no place in a log density that is reported.
    """
    return scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])


class _Reweight(Messenger):
    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = weights

    def _pyro_sample(self, msg: Any) -> None:
        # Not poutine.scale, which refuses the weight 0 that every warm-up begins with.
        msg["scale"] = self.weights.get(msg["name"], 1.0) * msg["scale"]


def reweight(program: Program, weights: Mapping[str, float]) -> Program:
    """The program with the log densities of the named sites weighted.

    `Trace_ELBO` needs it on model and guide, so that beta weighs log p(z) and log q(z | x) alike.
    """
    if all(weight == 1.0 for weight in weights.values()):
        return program
    return _Reweight(weights)(program)


def trace_log_probs(trace: Trace) -> dict[str, Tensor]:
    """Every sample site's unscaled log density, by name."""
    trace.compute_log_prob()
    return {
        name: unscaled_log_prob(site)
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not poutine.util.site_is_subsample(site)
    }
