"""DiagonalNormal and LinearNormal written out, and networks and sizes that make no posterior."""

import math

import pytest
import torch
from torch import nn

from pyrovae import flows, posteriors
from pyrovae.errors import InputError
from pyrovae.networks import MLP

LATENT, IMAGE = 3, (3, 4, 5)


def encoder():
    return posteriors.DiagonalNormal(MLP(IMAGE, 7, hidden=(6,)), LATENT).double()


def images():
    return torch.rand(4, *IMAGE).double()


def test_the_diagonal_normal_posterior_uses_its_second_head_as_scale():
    posterior = encoder()
    x = images()
    z = torch.randn(4, LATENT).double()
    features = posterior.network(x)
    loc, scale = posterior.loc(features), posterior.scale(features).exp().add(1).log() + 1e-4
    by_hand = -0.5 * ((z - loc) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(posterior(x).log_prob(z), by_hand.sum(-1))


def test_a_collapsed_posterior_still_has_a_density():
    posterior = encoder()
    with torch.no_grad():
        posterior.scale.bias.fill_(-1e4)
    x = images()
    distribution = posterior(x)
    assert distribution.log_prob(distribution.sample()).isfinite().all()


def test_the_linear_normal_posterior_takes_over_mean_and_covariance():
    posterior = posteriors.LinearNormal(IMAGE, LATENT).double()
    weight, bias, root = (
        torch.randn(LATENT, math.prod(IMAGE)).double(),
        torch.randn(LATENT).double(),
        torch.randn(LATENT, LATENT).double(),
    )
    covariance = root @ root.T + torch.eye(LATENT).double()
    posterior.set_to(weight, bias, covariance)
    x = images()
    torch.testing.assert_close(posterior(x).mean, x.flatten(1) @ weight.T + bias)
    torch.testing.assert_close(posterior(x).covariance_matrix, covariance.expand(4, -1, -1))


@pytest.mark.parametrize(
    "build",
    [
        lambda network, size: posteriors.DiagonalNormal(network, size),
        lambda network, size: posteriors.FullCovarianceNormal(network, size),
        lambda network, size: posteriors.FlowPosterior(network, size, flows.Planar(size)),
    ],
    ids=["diagonal", "full covariance", "flow"],
)
def test_networks_and_sizes_that_make_no_posterior_are_refused(build):
    with pytest.raises(InputError, match=r"Linear .*out_shape"):
        build(nn.Linear(4, 3), 2)
    with pytest.raises(InputError, match=r"MLP .*shape \(3, 4\)"):
        build(MLP(4, (3, 4)), 2)
    for size in (0, 2.5):
        with pytest.raises(InputError, match=f"latent_dim is {size}; it must be a whole number"):
            build(MLP(4, 3), size)


def test_bounds_hold_for_a_diagonal_normals_scales():
    bounded, free = (posteriors.DiagonalNormal(MLP(3, 4), 2, bounds) for bounds in ((0.05, 2.7), None))
    free.load_state_dict(bounded.state_dict())
    x = 300 * torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    unbounded = free(x).base_dist
    assert unbounded.scale.min() < 0.05
    assert unbounded.scale.max() > 2.7
    torch.testing.assert_close(bounded(x).base_dist.scale, unbounded.scale.clamp(0.05, 2.7))
    torch.testing.assert_close(bounded(x).base_dist.loc, unbounded.loc)


@pytest.mark.parametrize("bounds", [(0, 1), (1, 1), (2, 1), (0.1, float("inf")), (0.1,), 0.1, ("a", "b")])
def test_bounds_that_hold_no_scale_are_refused(bounds):
    with pytest.raises(InputError, match="scale_bounds is "):
        posteriors.DiagonalNormal(MLP(3, 4), 2, bounds)
