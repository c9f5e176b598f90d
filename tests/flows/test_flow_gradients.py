"""Gradients of every flow posterior, and its start."""

import copy

import pytest
import torch
from component_table import FLOWS
from flow_cases import (
    build,
    data,
    draw,
    every_flow,
    every_invertible,
    every_other,
    every_posterior,
)

from pyrovae.errors import InputError


@every_posterior
def test_gradients_at_the_start_are_finite_and_every_parameter_moves(name):
    for seed in range(10):
        for latent_dim in (2, 40):
            posterior = build(name, latent_dim, seed=seed).float()
            before = copy.deepcopy(posterior.state_dict())
            distribution = posterior(data(4).float())
            z = distribution.rsample()
            (distribution.log_prob(z) + 0.5 * (z - 1).square().sum(-1)).sum().backward()
            torch.optim.SGD(posterior.parameters(), lr=0.1).step()
            for key, parameter in posterior.named_parameters():
                assert parameter.grad.isfinite().all(), key
                assert parameter.grad.abs().max() > 1e-8, key
                assert not torch.equal(parameter, before[key]), key


@every_flow
def test_every_number_of_the_context_counts(name):
    flow = FLOWS[name](4).double()
    context = torch.randn(flow.context_dim).double().requires_grad_()
    z, weights = torch.randn(4).double(), torch.randn(4).double()
    loss = 0.0
    for transform in flow(context):
        z, log_determinant = transform.call_and_ladj(z)
        loss = loss + log_determinant
    (gradient,) = torch.autograd.grad(loss + weights @ z, context)
    assert (gradient != 0).all()


@every_flow
def test_flows_start_near_the_identity(name):
    distribution = build(name, 40)(data(100))
    z, log_prob, z0 = draw(distribution)
    torch.testing.assert_close(distribution.base.log_prob(z0), log_prob, atol=1.0, rtol=0)
    if name != "householder":  # a reflection is never near
        assert (z - z0).abs().mean() < 0.1


@every_invertible
def test_the_score_functions_gradient_holds_the_draw_still(name):
    """d log q(z) / d bias at a z that does not move with it, held against finite differences."""
    posterior, x = build(name, strength=0.3), data(1)
    distribution = posterior(x)
    z = distribution.sample()
    log_prob = distribution.log_prob(z)
    heads = (
        (posterior.loc, posterior.scale, posterior.context) if name in FLOWS else posterior.network.layers
    )
    for bias in (head.bias for head in heads if hasattr(head, "bias")):
        (gradient,) = torch.autograd.grad(log_prob.sum(), bias, retain_graph=True)
        direction, step, found = torch.randn_like(bias), 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                bias.add_(sign * step * direction)
                found.append(posterior(x).log_prob(z).item())
                bias.sub_(sign * step * direction)
        expected = (found[0] - found[1]) / (2 * step)
        assert (gradient @ direction).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@every_other
def test_the_score_functions_gradient_is_refused_where_it_is_not_known(name):
    distribution = build(name)(data(4))
    _, expected, _ = draw(distribution)
    torch.manual_seed(5)
    log_prob = distribution.log_prob(distribution.sample())  # the number itself is known
    torch.testing.assert_close(log_prob, expected)
    with pytest.raises(InputError, match=r"no inverse.*score function"):
        log_prob.sum().backward()
