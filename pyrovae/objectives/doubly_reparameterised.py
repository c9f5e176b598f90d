"""The doubly reparameterised gradient of the importance-weighted bound (DReG; Tucker et al. 2019).

With w_k = p(x, z_k) / q(z_k | x) and shares v_k = w_k / sum_j w_j, the gradient of log sum_k w_k for the
guide's parameters phi has two parts: the path through z_k, sum_k v_k (d log w_k / d z_k)(d z_k / d phi),
and the direct -sum_k v_k d log q(z_k) / d phi. The direct part can be reparameterised in turn. It has
the mean of -sum_k v_k (1 - v_k) (d log w_k / d z_k)(d z_k / d phi). The sum of both parts is then the path
with the factors v_k^2.

An enumerated class y is a stratum. The w_ky are normalised over particles and classes together, and add up
as the w_k do. Each z_ky is a draw of its own. So the same two steps give the factors v_ky^2. A draw that
all classes of a particle share has the particle's share, v_k = sum_y v_ky.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.programs.densities import enumerated_sites
from pyrovae.programs.reparameterisation import relaxed_value, rounded
from pyrovae.programs.sites import latent_sites


class _ScaledPath(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor.

    The factor depends on the weights, which are known only after the values have been used. So the backward
    pass looks it up.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, name: str, factors: Mapping[str, Tensor]) -> Tensor:
        ctx.name, ctx.factors = name, factors
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * ctx.factors[ctx.name], None, None


def scaled_paths(drawn: Trace, names: Collection[str], factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return these sites' draws that depend on parameters. Their gradients are multiplied by `factors`.

    For a straight-through draw it is the relaxed value, through which all of its gradient passes.
    """
    values = {name: drawn.nodes[name]["value"] for name in latent_sites(drawn) if name in names}
    return {
        name: _ScaledPath.apply(relaxed_value(value), name, factors)
        for name, value in values.items()
        if value.requires_grad
    }


def with_paths(drawn: Trace, paths: Mapping[str, Tensor]) -> Trace:
    """Return a copy of the trace with the paths of `scaled_paths` in the place of its draws."""
    copy = drawn.copy()
    for name, path in paths.items():
        value = drawn.nodes[name]["value"]
        value = path if relaxed_value(value) is value else rounded(value, path)
        copy.nodes[name] = {**copy.nodes[name], "value": value}
    return copy


def as_leaves(log_q: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the log densities of the guide's sites without gradients, each with a zero that has one."""
    leaves = {name: torch.zeros_like(value, requires_grad=True) for name, value in log_q.items()}
    return {name: value.detach() + leaves[name] for name, value in log_q.items()}, leaves


def shares_of(loss: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the share v of each draw in minus the loss, by site, `(*values, K, *plates)`.

    It is minus the derivative of the bound for the draw's log q. So it holds whatever is summed out.

    Args:
        loss: minus the bound.
        leaves: the zeros beside the log densities, of `as_leaves`.
    """
    zeros = list(leaves.values())
    found = torch.autograd.grad(loss, zeros, retain_graph=True, materialize_grads=True) if zeros else ()
    return dict(zip(leaves, found, strict=True))


def with_parameters_fixed(
    log_q: Mapping[str, Tensor], shares: Mapping[str, Tensor], paths: Mapping[str, Tensor]
) -> Tensor:
    """Return a zero with the gradient of sum v log q along the values, with q's parameters held fixed."""
    total = sum(((shares[name] * value).sum() for name, value in log_q.items()), torch.zeros(()))
    if not (paths and total.requires_grad):
        return total.new_zeros(())
    values = list(paths.values())
    gradients = torch.autograd.grad(total, values, materialize_grads=True)
    linear = sum(((g * v).sum() for g, v in zip(gradients, values, strict=True)), total.new_zeros(()))
    return linear - linear.detach()


def path_factors(
    paths: Mapping[str, Tensor], guide_trace: Trace, shares: Mapping[str, Tensor], depth: int
) -> dict[str, Tensor]:
    """Return the shares v of each site, in a shape that broadcasts against the site's values.

    Args:
        paths: the values by site, `(*values, K, *plates, *event_shape)`.
        guide_trace: the trace of the guide that drew them.
        shares: the shares by site, `(*values, K, *plates)`.
        depth: the number of dimensions that the plates take.

    Raises:
        InputError: some sites are drawn once for all classes of a particle, and some once for each class.
    """
    found, classes = {}, {}
    for name, value in paths.items():
        event_dim = guide_trace.nodes[name]["fn"].event_dim
        leading = value.shape[: value.dim() - event_dim]
        classes[name] = [dim for dim, size in enumerate(reversed(leading)) if dim > depth and size > 1]
        share = shares[name].broadcast_to(torch.broadcast_shapes(shares[name].shape, leading))
        share = share.sum_to_size(leading)
        found[name] = share.reshape((*share.shape, *[1] * event_dim))
    # The gradient of a draw that all classes share needs the particle's share. On its way through a draw
    # for one class it would get the share of the class.
    if len(set(map(tuple, classes.values()))) > 1:
        raise InputError(
            f"{enumerated_sites(guide_trace)} is enumerated after some of the latents {sorted(paths)} are "
            "drawn and before others: the doubly reparameterised gradient cannot tell their paths apart. "
            "Use the plain gradient, IWAE(num_samples)."
        )
    return found


@contextmanager
def scoring() -> Iterator[None]:
    """Explain an error that arises where the guide scores given draws.

    Raises:
        InputError: a distribution can score only a value that it has just drawn.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, KeyError, NotImplementedError) as error:
        reason = str(error).split("\nTrace Shapes")[0]
        raise InputError(
            "the doubly reparameterised gradient runs the guide a second time, to score the draws of the "
            f"first run, but a flow without an inverse cannot score them ({type(error).__name__}: {reason})"
            ": use the plain gradient, IWAE(num_samples), or another posterior."
        ) from error
