"""Leading dimensions of every flow posterior: particles, plates and enumerated classes."""

import itertools

import pyro
import pytest
import torch
from flow_cases import (
    build,
    data,
    draw,
    every_flow,
    every_posterior,
)
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae.distributions import AmortisedFlow


@pytest.mark.parametrize("leading", [(), (4,), (2, 4), (3, 1, 4)], ids=str)
@every_posterior
def test_particles_and_enumerated_classes_lead(name, leading):
    posterior, x = build(name, strength=0.3), data(*leading)
    distribution = posterior(x)
    assert (distribution.batch_shape, distribution.event_shape) == (leading, (3,))
    wide = (2, *leading)
    z, log_prob, z0 = draw(distribution.expand(wide))
    assert (z.shape, log_prob.shape) == ((*wide, 3), wide)
    for index in itertools.product(*map(range, wide)):
        alone = posterior(x[index[1:]])
        image, density = z0[index], alone.base.log_prob(z0[index])
        for transform in alone.transforms:
            image, log_determinant = transform.call_and_ladj(image)
            density = density - log_determinant
        torch.testing.assert_close(image, z[index])
        torch.testing.assert_close(density, log_prob[index])


@every_posterior
def test_a_plate_of_particles_widens_the_batch_between(name):
    distribution = build(name)(data(3, 1, 4)).expand((3, 5, 4))
    z, log_prob, _ = draw(distribution)
    assert (z.shape, log_prob.shape) == ((3, 5, 4, 3), (3, 5, 4))
    assert len(z.flatten(0, 2).unique(dim=0)) == 60
    assert distribution.rsample((2,)).shape == (2, 3, 5, 4, 3)


@every_flow
def test_a_step_can_be_recorded_as_a_graph_without_waiting_for_a_number(name):
    posterior = build(name, 4)

    def step(x):
        distribution = posterior(x).expand((2, 3))
        z = distribution.rsample()
        return [z.detach(), distribution.log_prob(z).detach()]

    with pyro.validation_enabled(False):
        graph = make_fx(step)(data(3))
        x = data(3)
        for recorded, run in zip(*(seeded(f, x) for f in (graph, step)), strict=True):
            torch.testing.assert_close(recorded, run)
    operations = {str(node.target) for node in graph.graph.nodes}
    assert not operations & {"aten._local_scalar_dense.default", "aten.nonzero.default"}


def seeded(function, x):
    torch.manual_seed(3)
    return function(x)


def test_an_expanded_flow_shares_its_transforms_and_knows_no_draw_of_the_other():
    distribution = build("householder")(data(4))
    z = distribution.rsample()
    wide = distribution.expand((2, 4))
    assert isinstance(wide, AmortisedFlow)
    assert wide.transforms is distribution.transforms
    torch.testing.assert_close(wide.log_prob(z), distribution.log_prob(z).expand(2, 4))


def test_a_wrong_shape_is_refused_where_validation_is_on():
    distribution = build("householder")(data(4))
    with pytest.raises(ValueError, match="right-most size"):
        distribution.log_prob(torch.zeros(4, 2).double())
