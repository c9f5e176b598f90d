"""FlowPosterior: flows that it refuses."""

import pytest

from pyrovae import flows
from pyrovae.distributions.zuko_import import zuko
from pyrovae.errors import InputError
from pyrovae.networks import MLP
from pyrovae.posteriors import FlowPosterior


def test_a_flow_over_another_number_of_dimensions_is_refused():
    with pytest.raises(InputError, match=r"latent_dim is 3.*Planar.* 2 "):
        FlowPosterior(MLP(4, 5), 3, flows.Planar(2))


def test_what_is_no_flow_of_the_library_is_refused():
    for flow in (zuko.flows.MAF(3, 8), flows.Planar):
        with pytest.raises(InputError, match=r"pyrovae.flows, such as Planar\(3\)"):
            FlowPosterior(MLP(4, 5), 3, flow)
