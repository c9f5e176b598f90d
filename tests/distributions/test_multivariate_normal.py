"""MultivariateNormal: the density of its own draws, against torch's and its entropy."""

import math

import pytest
import torch

from pyrovae.distributions import MultivariateNormal


def full_normals(latent_dim, batch, below=1.0):
    """The library's and torch's distribution with the same parameters, which carry gradients."""
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(batch, latent_dim, generator=generator, dtype=torch.double)
    entries = torch.randn(batch, latent_dim, latent_dim, generator=generator, dtype=torch.double)
    scale_tril = below * entries.tril(-1) + torch.diag_embed(0.5 + entries.diagonal(dim1=-2, dim2=-1).abs())
    parameters = loc.requires_grad_(), scale_tril.requires_grad_()
    return parameters, [
        cls(loc, scale_tril=scale_tril)
        for cls in (MultivariateNormal, torch.distributions.MultivariateNormal)
    ]


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("expanded", [False, True])
def test_the_full_covariance_normal_scores_its_draws_as_any_value(shape, expanded):
    torch.manual_seed(0)
    parameters, (ours, torchs) = full_normals(4, 5)
    if expanded:
        ours, torchs = ours.expand((2, 5)), torchs.expand((2, 5))
    z = ours.rsample(shape)
    assert z.shape == (*shape, *ours.batch_shape, 4)
    losses = [q.log_prob(z) + z.sin().sum(-1) for q in (ours, torchs)]
    torch.testing.assert_close(*losses)
    gradients = [torch.autograd.grad(loss.sum(), parameters, retain_graph=True) for loss in losses]
    for one, other in zip(*gradients, strict=True):  # what is above L's diagonal is no parameter
        torch.testing.assert_close(one.tril(), other.tril())
    torch.testing.assert_close(ours.log_prob(z + 1), torchs.log_prob(z + 1))


def test_the_full_covariance_normal_has_the_score_functions_gradient():
    torch.manual_seed(0)
    parameters, (ours, torchs) = full_normals(4, 5)
    z = ours.sample()
    scores = [q.log_prob(z) for q in (ours, torchs)]
    torch.testing.assert_close(*[torch.autograd.grad(score.sum(), parameters) for score in scores])
    with torch.no_grad():
        torch.testing.assert_close(ours.log_prob(z), torchs.log_prob(z))


def test_a_badly_conditioned_full_covariance_normal_is_scored_right():
    """In 40 dimensions, where the solution of the triangular system is lost in rounding."""
    torch.manual_seed(0)
    _, (wide, _) = full_normals(40, 1, below=3.0)
    q = MultivariateNormal(wide.loc.float(), scale_tril=wide.scale_tril.float())
    draws = q.rsample((4000,))
    surprise = -q.log_prob(draws)
    # The entropy is the mean of -log q; -log q has the variance of half a chi-square, 40 / 2.
    error = (surprise.mean() - wide.entropy()).abs()
    assert error < 4 * math.sqrt(20 / 4000)
    assert not (-q.log_prob(draws.clone()).mean() - wide.entropy()).abs() < 1e3  # by the system
