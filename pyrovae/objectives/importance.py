"""The importance-weighted bound, with its plain or its doubly reparameterised gradient."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace

from pyrovae.compute.devices import seeded
from pyrovae.errors import InputError
from pyrovae.objectives.doubly_reparameterised import (
    check_scores,
    path_factors,
    scaled_paths,
    shares_of,
    with_parameters_fixed,
    with_values,
)
from pyrovae.objectives.elbo import ELBO
from pyrovae.objectives.objective import Bound
from pyrovae.objectives.terms import Terms
from pyrovae.programs.devices import device_of
from pyrovae.programs.log_weights import Layout, enumerated, layout_of, log_densities, particle_plate
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide, Pair, Program
from pyrovae.programs.reparameterisation import check_gradient_flows
from pyrovae.programs.running import run_pair


class IWAE(ELBO):
    """The importance-weighted bound with K draws for each datum (Burda et al. 2016, equation 8):

        L_K = E[ log 1/K sum_k w_k ],    w_k = p(x, z_k) / q(z_k | x)

    L_1 is the ELBO. Enumerated classes are summed out in each weight, w_k = sum_y p(x, y, z_ky) /
    q(z_ky | x, y). The bound is then on log p(x), and q(y | x) has no part in it: freeze M2's classifier
    (`m2.classifier.requires_grad_(False)`), or train it apart from the bound. Every other latent must be
    reparameterised.

    The plain gradient for the guide becomes noise as K grows (Rainforth et al. 2018). The doubly
    reparameterised gradient (DReG; Tucker et al. 2019, equation 8) has the same mean and less noise. With
    normalised weights v_k = w_k / sum_j w_j, the model's parameters get sum_k v_k d log w_k, and the
    guide's get sum_k v_k^2 (d log w_k / d z_k) (d z_k / d phi), along the path through z alone. DReG runs
    the guide a second time to score the draws, but a flow without an inverse cannot score them. A parameter
    that model and guide share gets both: v_k where the model uses it, as a VampPrior uses the encoder, and
    v_k^2 where the guide uses it. DReG reduces the noise more if the weights vary less, and has no noise
    with an exact guide. With a poor guide, as in the first steps, it can be noisier than the plain
    gradient.

    The terms are those of the ELBO, averaged over the same K draws. Weights of single sites, beta among
    them, do not combine with the bound: they would turn w_k into something else. A weight that all sites
    have in common, such as a plate's N/B, multiplies the whole bound.

    Args:
        num_samples: K, the number of draws for each datum.
        doubly_reparameterised: estimate the guide's gradient by DReG. False means the plain gradient.

    Raises:
        InputError: K is below 1. On evaluation: sites have different weights, a latent is neither
            enumerated nor reparameterised, or `log_weights.layout_of` refuses the programs. With DReG also:
            the guide cannot score a given value, or some latents are drawn before an enumerated site and
            some after it (as in M1+M2 without labels).
    """

    def __init__(self, num_samples: int, doubly_reparameterised: bool = False) -> None:
        super().__init__(num_particles=num_samples)
        self.doubly_reparameterised = doubly_reparameterised
        self._layouts = _Layouts()

    def evaluate(self, pair: ModelAndGuide, *args: Any, **kwargs: Any) -> Bound:
        """Return the importance-weighted bound on a minibatch, in nats, summed over its data."""
        model, guide = pair.model, pair.guide
        layout = self._layouts.of(model, guide, args, kwargs)
        if kwargs:
            model, guide = functools.partial(model, **kwargs), functools.partial(guide, **kwargs)
        drawing = enumerated(guide, layout)
        double = self.doubly_reparameterised and torch.is_grad_enabled()
        paths: dict[str, torch.Tensor] = {}  # the draws, and the factors of their gradients
        factors: dict[str, torch.Tensor] = {}
        with particle_plate(self.num_particles, layout):
            if double:
                drawn = poutine.trace(drawing).get_trace(*args)
                paths = scaled_paths(drawn, factors)
                drawing = poutine.replay(guide, trace=with_values(drawn, paths))
            model_trace, guide_trace = run_pair(Pair(model, drawing), *args)
        check_gradient_flows(guide_trace, otherwise="use ScoreFunctionELBO")
        scale = _common_scale(model_trace, guide_trace)
        if double:
            check_scores(guide_trace)
        log_p, log_q = log_densities(model_trace, guide_trace, args[0], layout)
        terms = Terms(self.num_particles)
        terms.add(model_trace, guide_trace)
        log_weights = log_p - (log_q.detach() if double else log_q)
        bound = log_weights.flatten(0, -2).logsumexp(0) - math.log(self.num_particles)
        loss = -bound.sum()
        if double:
            shares = shares_of(log_weights.detach())
            loss = loss + with_parameters_fixed(shares * log_q, paths)
            factors |= path_factors(paths, guide_trace, shares, layout)
        return Bound(scale * loss, terms.named())


class _Layouts:
    """The layouts of the pairs that an objective has evaluated. It does not keep a pair alive."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[list[weakref.ref[Any]], Layout]] = {}

    def of(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Layout:
        """Return the dimensions of the programs' plates, found once for each pair and kind of call."""
        absent = tuple(name for name, value in (*enumerate(args), *kwargs.items()) if value is None)
        owners = [getattr(program, "__self__", program) for program in (model, guide)]
        functions = [getattr(program, "__func__", None) for program in (model, guide)]
        key = (*map(id, owners), *functions, len(args), *kwargs, absent)
        references, layout = self._known.get(key, ([], None))
        # Another object may get the id of one that is gone.
        if layout is None or any(r() is not o for r, o in zip(references, owners, strict=True)):
            layout = _layout(model, guide, args, kwargs)
            self._forget_the_dead()
            try:
                self._known[key] = [weakref.ref(owner) for owner in owners], layout
            except TypeError:  # an owner with __slots__, which has no weak reference
                self._known.pop(key, None)
        return layout

    def _forget_the_dead(self) -> None:
        alive = {key: kept for key, kept in self._known.items() if all(r() is not None for r in kept[0])}
        self._known = alive if len(alive) < 8 else {}  # for programs that are made anew for each call


def _layout(model: Program, guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Layout:
    device = device_of(model, guide, otherwise=args[0].device)
    called = Pair(functools.partial(model, **kwargs), functools.partial(guide, **kwargs))
    with torch.no_grad(), evaluating(model, guide), seeded(0, device):
        return layout_of(called, args)


def _common_scale(*traces: Trace) -> Any:
    """Return the weight that all sites have in common, such as a plate's N/B."""
    nodes = (node for trace in traces for node in trace.nodes.items())
    scales = [(name, site["scale"]) for name, site in nodes if site["type"] == "sample"]
    first = scales[0][1]
    if any(scale is not first and scale != first for _, scale in scales):
        raise InputError(
            f"the sites are weighted differently ({', '.join(f'{n}: {s}' for n, s in scales)}), but "
            "importance weights cannot be combined with beta and weights of sites: leave them at 1 (no "
            "beta, no warm-up, no weights), or use the ELBO."
        )
    return first
