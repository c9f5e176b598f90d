"""A check of the latent sites of a guide, for objectives that sum out enumerated sites."""

from __future__ import annotations

from pyro.poutine.trace_struct import Trace

from pyrovae.errors import InputError
from pyrovae.programs.densities import enumerated_sites
from pyrovae.programs.reparameterisation import check_gradient_flows
from pyrovae.programs.sites import latent_sites


def check_enumerable(guide_trace: Trace) -> None:
    """Refuse plates and latents beside which a site cannot be enumerated.

    Raises:
        InputError: a latent lies under other plates than that of the data, or is neither enumerated nor
            reparameterised.
    """
    enumerated = enumerated_sites(guide_trace)
    for name in latent_sites(guide_trace):
        site = guide_trace.nodes[name]
        plates = [frame for frame in site["cond_indep_stack"] if frame.name != "num_particles_vectorized"]
        if [frame.dim for frame in plates] != [-1]:
            raise InputError(
                f"site '{name}' is not under one plate at dimension -1, but {enumerated} is enumerated: "
                "use pyro.infer.TraceEnum_ELBO for programs with enumeration and several plates."
            )
    check_gradient_flows(guide_trace)
