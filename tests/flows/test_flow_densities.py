"""The density of every flow posterior, against autograd, integrals and inverses."""

import itertools
import math

import pytest
import torch
from flow_cases import (
    WITH_INVERSE,
    build,
    by_jacobian,
    data,
    draw,
    every_invertible,
    every_other,
    every_posterior,
    push,
)
from scipy.spatial import cKDTree

from pyrovae.errors import InputError


@pytest.mark.parametrize("latent_dim", [1, 2, 5, 40])
@every_posterior
def test_the_density_has_the_determinant_of_autograds_jacobian(name, latent_dim):
    # Large triangular matrices soon become too ill-conditioned for the test's own arithmetic.
    for seed, strength in enumerate([0.0, 0.3, 0.6] if latent_dim < 40 else [0.0, 0.1, 0.3]):
        distribution = build(name, latent_dim, seed=seed, strength=strength)(data(3))
        z, log_prob, z0 = draw(distribution)
        torch.testing.assert_close(push(distribution, z0), z)
        torch.testing.assert_close(log_prob, by_jacobian(distribution, z0), atol=1e-4, rtol=0)


@torch.no_grad()
def preimages(distribution, z, low, high):
    """z_0 with f(z_0) = z for points `(N, 2)`, by Newton's method from the nearest of many points with a
    known image; and which were found. It knows nothing of the flow but its forward direction."""
    grid = torch.cartesian_prod(
        *(torch.linspace(a, b, 200).double() for a, b in zip(low, high, strict=True))
    )
    nearest = cKDTree(push(distribution, grid).numpy()).query(z.numpy())[1]
    z0 = grid[nearest]
    for _ in range(12):
        with torch.enable_grad():
            jacobian = torch.autograd.functional.jacobian(lambda p: push(distribution, p).sum(0), z0)
        error = push(distribution, z0) - z
        step = torch.linalg.solve(jacobian.movedim(0, 1), error)
        halvings = [z0 - step / 2**k for k in range(6)]
        errors = torch.stack([(push(distribution, p) - z).norm(dim=-1) for p in halvings])
        z0 = torch.stack(halvings)[errors.argmin(0), torch.arange(len(z))]
    return z0, (push(distribution, z0) - z).norm(dim=-1) < 1e-6


@every_posterior
def test_the_density_integrates_to_one(name):
    distribution = build(name, 2, seed=2, strength=0.3)(data(1))
    z, _, _ = draw(distribution.expand((5000,)))
    spread = z.std(0)
    low, high = z.min(0).values - spread, z.max(0).values + spread
    axes = [torch.linspace(a, b, 100).double() for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    points = torch.cartesian_prod(*axes)
    cell = math.prod((axis[1] - axis[0]).item() for axis in axes)
    if name in WITH_INVERSE:
        density = distribution.log_prob(points).exp()
    else:
        base = distribution.base.base_dist
        reach = 7 * base.scale[0]
        z0, found = preimages(distribution, points, base.loc[0] - reach, base.loc[0] + reach)
        density = by_jacobian(distribution, z0).exp() * found
    assert (density.sum() * cell).item() == pytest.approx(1, abs=0.01)


def rival_of(distribution):
    """A normal distribution that lies where most of q's draws are."""
    z, _, _ = draw(distribution, seed=6)
    return torch.distributions.MultivariateNormal(z.mean(0), 0.9 * z.T.cov())


@torch.no_grad()
@every_other
def test_samples_and_density_agree_in_40_dimensions(name):
    """E_q[h / q] = 1 for a density h; as h is narrower than q, the ratio has no heavy tail."""
    distribution = build(name, 40, seed=2, strength=0.05)(data(1)).expand((5000,))
    h = rival_of(distribution)
    z, log_q, _ = draw(distribution)
    ratio = (h.log_prob(z) - log_q).exp()
    error = ratio.std() / math.sqrt(len(ratio))
    assert error < 0.03
    assert abs(ratio.mean() - 1) < 4 * error


@torch.no_grad()
@every_invertible
def test_samples_density_and_inverse_agree_in_40_dimensions(name):
    """The integral of min(h, q) by draws from q, scored as they are drawn, and by draws from h, scored by
    q's inverse. Both ratios are bounded, however heavy the tails are."""
    distribution = build(name, 40, seed=2, strength=0.1)(data(1)).expand((1500,))
    h = rival_of(distribution)
    z, log_q, _ = draw(distribution)
    theirs = h.sample((1500,))
    of_q = (h.log_prob(z) - log_q).exp().clamp(max=1)
    of_h = (distribution.log_prob(theirs) - h.log_prob(theirs)).exp().clamp(max=1)
    error = ((of_q.var() + of_h.var()) / len(z)).sqrt()
    assert of_q.mean() > 0.05
    assert abs(of_q.mean() - of_h.mean()) < 4 * error


@every_invertible
def test_a_foreign_value_is_scored_by_the_inverse(name):
    distribution = build(name, 5, strength=0.5)(data(4))
    z, log_prob, z0 = draw(distribution)
    torch.testing.assert_close(distribution.log_prob(z.clone()), log_prob)
    torch.testing.assert_close(distribution.log_prob(z.clone()), by_jacobian(distribution, z0))


@every_invertible
def test_any_number_of_points_is_scored_under_each_member_of_a_batch(name):
    """As in a mixture over pseudo-inputs."""
    posterior, x = build(name, 3, strength=0.5), data(4)
    z = torch.randn(5, 1, 3).double()
    together = posterior(x).log_prob(z)
    assert together.shape == (5, 4)
    for i, j in itertools.product(range(5), range(4)):
        torch.testing.assert_close(together[i, j], posterior(x[j]).log_prob(z[i, 0]))


@every_other
def test_a_flow_without_an_inverse_says_so(name):
    distribution = build(name)(data(4))
    first = distribution.rsample()
    distribution.rsample()
    for foreign in (first, first.clone(), torch.zeros(4, 3).double()):
        with pytest.raises(InputError, match=f"the {type(distribution.flow).__name__} flow has no inverse"):
            distribution.log_prob(foreign)
