"""The steps of each flow, written out."""

import math

import pytest
import torch
from component_table import SMALL
from flow_cases import FEATURES, by_jacobian, data, dependence, draw
from torch.distributions import Transform, constraints

from pyrovae import flows
from pyrovae.errors import InputError
from pyrovae.flows import Sylvester
from pyrovae.networks import MLP
from pyrovae.posteriors import FlowPosterior


def test_a_planar_step_is_invertible_whatever_its_parameters_are():
    flow = flows.Planar(3, 1)
    for size in (0.0, 1e-12, 1.0, 1e3):
        u, w = size * torch.randn(1000, 3), size * torch.randn(1000, 3)
        u[:500] = -w[:500]  # as far against one another as can be
        context = torch.cat([u, w, torch.zeros(1000, 1)], -1).requires_grad_()
        (step,) = flow(context)
        assert step.inner.min() > -1
        z = torch.randn(1000, 3)
        image, log_determinant = step.call_and_ladj(z)
        assert log_determinant.isfinite().all()
        assert step.call_and_ladj(torch.zeros(1000, 3))[1].isfinite().all()  # where tanh is steepest
        (gradient,) = torch.autograd.grad((image.sum() + log_determinant.sum()), context)
        assert gradient.isfinite().all()


def test_a_planar_step_is_the_papers_where_it_is_invertible_as_it_stands():
    u, w, b, z = (torch.randn(3).double() for _ in range(4))
    u = u * (u @ w).sign()  # then w^T u > 0
    (step,) = flows.Planar(3, 1)(torch.cat([u, w, b[:1]]))
    torch.testing.assert_close(step(z), z + u * torch.tanh(w @ z + b[0]))


def test_a_radial_step_is_the_papers():
    centre, z = torch.randn(3).double(), torch.randn(3).double()
    alpha, beta = 0.7, -0.4  # above -alpha
    one, two = torch.tensor([alpha, alpha + beta]).double().expm1().log()  # undoes the softplus
    (step,) = flows.Radial(3, 1)(torch.cat([centre, torch.stack([one, two - one])]))
    expected = z + beta * (z - centre) / (alpha + (z - centre).norm())
    torch.testing.assert_close(step(z), expected)


def test_householder_reflections_preserve_lengths_and_come_in_order():
    normals, z = torch.randn(2, 3).double(), torch.randn(3).double()
    (transform,) = flows.Householder(3, 2)(normals.flatten())
    expected = z
    for v in normals:
        expected = expected - 2 * v * (v @ expected) / (v @ v)
    torch.testing.assert_close(transform(z), expected)
    torch.testing.assert_close(transform(z).norm(), z.norm())


def test_the_convex_combination_is_one_of_unit_triangular_matrices():
    flow = flows.ConvexCombination(3, 2).double()
    context, z = torch.randn(flow.context_dim).double(), torch.randn(3).double()
    one, two = context.unflatten(0, (2, 4))
    weights = torch.stack([one[3], two[3]]).softmax(0)
    expected = torch.zeros(3).double()
    for weight, (a, b, c, _) in zip(weights, (one, two), strict=True):
        expected += weight * torch.stack([z[0], a * z[0] + z[1], b * z[0] + c * z[1] + z[2]])
    (transform,) = flow(context)
    torch.testing.assert_close(transform(z), expected)


def test_inverse_autoregressive_steps_are_triangular_in_turn():
    flow = flows.InverseAutoregressive(4, 3, **SMALL).double()
    one, two, three = (dependence(t, 4) for t in flow(torch.randn(4).double()))
    lower = torch.ones(4, 4, dtype=torch.bool).tril()
    assert torch.equal(one, lower)
    assert torch.equal(two, lower.T)
    assert torch.equal(three, lower)


@pytest.mark.parametrize("latent_dim", [2, 5])
def test_in_spline_coupling_each_dimension_sees_the_other_half_in_turn(latent_dim):
    flow = flows.SplineCoupling(latent_dim, 2, **SMALL).double()
    one, two = (dependence(t, latent_dim) for t in flow(torch.randn(4).double()))
    odd = torch.arange(latent_dim) % 2 == 1
    itself = torch.eye(latent_dim, dtype=torch.bool)
    assert torch.equal(one, itself | (odd[:, None] & ~odd))
    assert torch.equal(two, itself | (~odd[:, None] & odd))


def test_splines_end_at_their_bound():
    flow = flows.SplineCoupling(2, 2, bound=3.0, **SMALL).double()
    z = torch.tensor([[3.1, -4.0], [2.9, 2.0]]).double()
    image = z
    for transform in flow(torch.randn(4).double()):
        image = transform(image)
    assert torch.equal(image[0], z[0])
    assert (image[1] != z[1]).all()


class Shift(Transform):
    """A transform of the user's own, which knows nothing of this library or of Zuko."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, by):
        super().__init__()
        self.by = by

    def _call(self, x):
        return 2 * x + self.by

    def log_abs_det_jacobian(self, x, y):
        return torch.full(x.shape[:-1], x.shape[-1] * math.log(2)).to(x)


def test_a_flow_of_torchs_transforms_serves_as_well():
    class Own(flows.Flow):
        def forward(self, context):
            return [Shift(context)]

    posterior = FlowPosterior(MLP(FEATURES, 4), 3, Own(3, 3)).double()
    distribution = posterior(data(4))
    z, log_prob, z0 = draw(distribution)
    torch.testing.assert_close(log_prob, by_jacobian(distribution, z0))
    with pytest.raises(InputError, match="the Own flow has no inverse"):
        distribution.log_prob(z.clone())


def test_a_reflection_by_nothing_is_a_reflection_all_the_same():
    for flow in (flows.Householder(3, 2), Sylvester(3, 2, "householder")):
        context = torch.zeros(flow.context_dim, dtype=torch.double, requires_grad=True)
        z = torch.randn(3).double()
        for transform in flow.double()(context):
            z = transform(z)
        assert z.isfinite().all()
        z.square().sum().backward()
        assert context.grad.isfinite().all()


@pytest.mark.parametrize("count", [0, 1.5, 2.0])
def test_counts_are_whole_numbers(count):
    with pytest.raises(InputError, match=f"steps is {count}"):
        flows.Planar(3, count)
    with pytest.raises(InputError, match="bound is -1"):
        flows.SplineCoupling(3, bound=-1)
