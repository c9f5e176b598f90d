"""Flows as priors: their densities, structure and start."""

import pyro.distributions as dist
import pytest
import torch

from pyrovae.distributions.zuko_import import zuko
from pyrovae.priors import (
    MaskedAutoregressive,
    RealNVP,
    SplineCoupling,
)


@pytest.mark.parametrize(
    ("build", "same"),
    [
        (
            lambda: RealNVP(5, steps=2, hidden=(8,)),
            lambda: zuko.flows.MAF(5, 0, 2, hidden_features=(8,), passes=2),
        ),
        (lambda: MaskedAutoregressive(5, 2, (8,)), lambda: zuko.flows.MAF(5, 0, 2, hidden_features=(8,))),
        (
            lambda: SplineCoupling(5, 2, (8,), bins=4),
            lambda: zuko.flows.NSF(5, 0, bins=4, transforms=2, hidden_features=(8,), passes=2),
        ),
    ],
    ids=["real nvp", "autoregressive", "splines"],
)
def test_a_flows_density_is_zukos(build, same):
    prior, flow = build(), same()
    flow.load_state_dict(prior.flow.state_dict())
    z = torch.randn(3, 4, 5)
    assert torch.equal(prior().log_prob(z), flow().log_prob(z))
    assert torch.equal(prior().expand((3, 4)).log_prob(z), flow().log_prob(z))


@pytest.mark.parametrize("family", [RealNVP, SplineCoupling])
def test_a_coupling_layer_bends_one_half_by_the_other_and_the_next_in_turn(family):
    """Within a half no dimension depends on another."""
    prior, z = family(6, steps=2, hidden=(8,)).double(), torch.randn(6).double()
    first, second = (
        torch.autograd.functional.jacobian(layer(None), z) for layer in prior.flow.transform.transforms
    )
    for jacobian, given, bent in ((first, slice(0, 3), slice(3, 6)), (second, slice(3, 6), slice(0, 3))):
        for half in (given, bent):
            assert torch.equal(jacobian[half, half], jacobian[half, half].diagonal().diag())
        assert (jacobian[given, bent] == 0).all()
        assert (jacobian[bent, given] != 0).any(1).all()


@pytest.mark.parametrize("family", [RealNVP, SplineCoupling, MaskedAutoregressive])
@pytest.mark.parametrize(("latent_dim", "nats"), [(1, 1.0), (2, 0.04), (40, 0.01)])
def test_a_flow_begins_near_the_standard_normal(family, latent_dim, nats):
    z = torch.randn(200, latent_dim)
    exact = dist.Normal(0.0, 1.0).expand((latent_dim,)).to_event(1).log_prob(z)
    with torch.no_grad():
        found = family(latent_dim)().log_prob(z)
    assert ((found - exact).abs().mean() / latent_dim).item() < nats


def test_validation_stays_as_it_was_though_zuko_is_imported():
    with pytest.raises(ValueError, match="constraint"):
        torch.distributions.Normal(0.0, -1.0)
