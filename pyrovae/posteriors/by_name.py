"""Flow posteriors as `posterior(network, latent_dim, *, flow_steps)`, for the table of posteriors.

Importing this file imports no torch, so that help can read the options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

if TYPE_CHECKING:
    from torch import nn

    from pyrovae.flows import Flow
    from pyrovae.posteriors import FlowPosterior

Steps = Annotated[int, Ge(1)]


def planar(network: nn.Module, latent_dim: int, *, flow_steps: Steps = 10) -> FlowPosterior:
    """Make a posterior with a planar flow.

    Args:
        network: x -> features, with an `out_shape`.
        latent_dim: M.
        flow_steps: The number of steps of the flow.
    """
    from pyrovae.flows import Planar

    return _posterior(network, latent_dim, Planar(latent_dim, flow_steps))


def radial(network: nn.Module, latent_dim: int, *, flow_steps: Steps = 10) -> FlowPosterior:
    """Make a posterior with a radial flow.

    Args:
        network: x -> features, with an `out_shape`.
        latent_dim: M.
        flow_steps: The number of steps of the flow.
    """
    from pyrovae.flows import Radial

    return _posterior(network, latent_dim, Radial(latent_dim, flow_steps))


def householder(network: nn.Module, latent_dim: int, *, flow_steps: Steps = 8) -> FlowPosterior:
    """Make a posterior with a Householder flow.

    Args:
        network: x -> features, with an `out_shape`.
        latent_dim: M.
        flow_steps: The number of steps of the flow.
    """
    from pyrovae.flows import Householder

    return _posterior(network, latent_dim, Householder(latent_dim, flow_steps))


def sylvester_orthogonal(network: nn.Module, latent_dim: int, *, flow_steps: Steps = 4) -> FlowPosterior:
    """Make a posterior with a Sylvester flow with orthogonalised matrices.

    Args:
        network: x -> features, with an `out_shape`.
        latent_dim: M.
        flow_steps: The number of steps of the flow.
    """
    from pyrovae.flows import Sylvester

    return _posterior(network, latent_dim, Sylvester(latent_dim, flow_steps, orthogonal="orthogonal"))


def sylvester_householder(network: nn.Module, latent_dim: int, *, flow_steps: Steps = 4) -> FlowPosterior:
    """Make a posterior with a Sylvester flow with Householder reflections.

    Args:
        network: x -> features, with an `out_shape`.
        latent_dim: M.
        flow_steps: The number of steps of the flow.
    """
    from pyrovae.flows import Sylvester

    return _posterior(network, latent_dim, Sylvester(latent_dim, flow_steps, orthogonal="householder"))


def sylvester_triangular(network: nn.Module, latent_dim: int, *, flow_steps: Steps = 4) -> FlowPosterior:
    """Make a posterior with a Sylvester flow with triangular matrices.

    Args:
        network: x -> features, with an `out_shape`.
        latent_dim: M.
        flow_steps: The number of steps of the flow.
    """
    from pyrovae.flows import Sylvester

    return _posterior(network, latent_dim, Sylvester(latent_dim, flow_steps, orthogonal="triangular"))


def iaf(network: nn.Module, latent_dim: int, *, flow_steps: Steps = 4) -> FlowPosterior:
    """Make a posterior with an inverse autoregressive flow.

    Args:
        network: x -> features, with an `out_shape`.
        latent_dim: M.
        flow_steps: The number of steps of the flow.
    """
    from pyrovae.flows import InverseAutoregressive

    return _posterior(network, latent_dim, InverseAutoregressive(latent_dim, flow_steps))


def cclinear_iaf(network: nn.Module, latent_dim: int, *, flow_steps: Steps = 5) -> FlowPosterior:
    """Make a posterior with a convex combination of linear inverse autoregressive flows.

    Args:
        network: x -> features, with an `out_shape`.
        latent_dim: M.
        flow_steps: The number of combined matrices of the flow.
    """
    from pyrovae.flows import ConvexCombination

    return _posterior(network, latent_dim, ConvexCombination(latent_dim, flow_steps))


def spline(network: nn.Module, latent_dim: int, *, flow_steps: Steps = 4) -> FlowPosterior:
    """Make a posterior with a coupling flow of splines.

    Args:
        network: x -> features, with an `out_shape`.
        latent_dim: M.
        flow_steps: The number of steps of the flow.
    """
    from pyrovae.flows import SplineCoupling

    return _posterior(network, latent_dim, SplineCoupling(latent_dim, flow_steps))


def _posterior(network: nn.Module, latent_dim: int, flow: Flow) -> FlowPosterior:
    from pyrovae.posteriors import FlowPosterior

    return FlowPosterior(network, latent_dim, flow)
