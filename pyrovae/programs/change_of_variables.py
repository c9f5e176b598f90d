"""The check of a guide that sets latents from an auxiliary draw.

With u ~ q(u) and z = f(u), the density of z is q(u) / |det df / du|, if f is one-to-one. A guide states the
second factor as the log density of the `Delta` that sets z, as Pyro's autoguides do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.programs.densities import unscaled_log_prob
from pyrovae.programs.modes import nothing_moves
from pyrovae.programs.structure import Structure
from pyrovae.programs.ways import close


def check_change_of_variables(of: Structure, auxiliary: str, latents: Sequence[str]) -> None:
    """Refuse a guide whose densities of latents are not those of the change of variables.

    Pyro's autoguides are right and are not checked.

    Args:
        of: the structure of a pair.
        auxiliary: the name of the auxiliary site.
        latents: the latents that a `Delta` sets from its draw.

    Raises:
        InputError: the map is not one-to-one, or the `Delta`s' log densities are not -log |det|.
    """
    guide = of.guide
    if guide is None or isinstance(getattr(guide, "__self__", guide), AutoGuide):
        return
    with nothing_moves(guide), poutine.block(), torch.enable_grad():
        drawn = poutine.trace(guide).get_trace(*of.args, **of.kwargs)
        u = drawn.nodes[auxiliary]["value"].detach().requires_grad_()
        given = Trace()
        given.nodes[auxiliary] = {**drawn.nodes[auxiliary], "value": u}
        trace = poutine.trace(poutine.replay(guide, trace=given)).get_trace(*of.args, **of.kwargs)
        trace.compute_log_prob()
        sites = [trace.nodes[name] for name in latents]
        event_dim = trace.nodes[auxiliary]["fn"].event_dim
        batch = u.shape[: u.dim() - event_dim]
        z = torch.cat([site["value"].reshape(*batch, -1) for site in sites], -1)
        columns = [
            torch.autograd.grad(column.sum(), u, retain_graph=True, materialize_grads=True)[0]
            for column in z.unbind(-1)
        ]
    jacobian = torch.stack([column.reshape(*batch, -1) for column in columns], -2)
    stated = sum((unscaled_log_prob(site).detach() for site in sites), torch.zeros(()))
    rows, size = jacobian.shape[-2:]
    if rows != size or not _agree(stated, -torch.linalg.slogdet(jacobian).logabsdet):
        names = " and ".join(f"'{name}'" for name in latents)
        raise InputError(
            f"the guide sets {names} from the auxiliary site '{auxiliary}', but the log density of the "
            f"Delta is not -log |det dz / d{auxiliary}|, that of the change of variables (the Jacobian is "
            f"{rows} x {size}), so q(z | x) is not known and there is no importance weight: give the Delta "
            "this log density, by log_density=..., or draw the latent from its distribution."
        )


def _agree(stated: Tensor, expected: Tensor) -> bool:
    return stated.shape == expected.shape and close(stated, expected)
