"""ZukoPosterior: Zuko's flows as posteriors."""

import pytest
import torch
from flow_cases import (
    FEATURES,
    data,
)

from pyrovae import fit
from pyrovae.distributions.zuko_import import zuko
from pyrovae.errors import InputError
from pyrovae.evaluation import gradient_variance
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import VAE
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO
from pyrovae.posteriors import ZukoPosterior
from pyrovae.priors import StandardNormal

pytestmark = pytest.mark.cpu


class Calls:
    """How often modules ran."""

    def __init__(self, *modules):
        self.counts = dict.fromkeys(modules, 0)
        for module in modules:
            module.register_forward_hook(self._count)

    def _count(self, module, *_):
        self.counts[module] += 1


def test_what_is_not_a_flow_of_zuko_is_refused():
    with pytest.raises(InputError, match=r"GMM .*Zuko"):
        ZukoPosterior(MLP(4, 5), zuko.mixtures.GMM(2, 5))


@pytest.mark.parametrize("invert", [False, True])
def test_a_zuko_posterior_is_zukos_own_distribution(invert):
    flow = zuko.flows.MAF(3, 8).double()
    posterior = ZukoPosterior(MLP(FEATURES, 8).double(), flow, invert)
    x, z = data(4), torch.randn(4, 3).double()
    features = posterior.network(x)
    transform = flow.transform(features)
    theirs = zuko.distributions.NormalizingFlow(transform.inv if invert else transform, flow.base(features))
    torch.testing.assert_close(posterior(x).log_prob(z), theirs.log_prob(z))


def test_the_inverted_maf_draws_in_one_pass_and_the_other_way_in_many():
    for invert, passes in ((True, 1), (False, 5 + 1)):  # one for each dimension, one for the determinant
        posterior = ZukoPosterior(MLP(FEATURES, 8), zuko.flows.MAF(5, 8, transforms=1), invert)
        calls = Calls(posterior.flow.transform.transforms[0].hyper)
        distribution = posterior(data(4).float())
        distribution.log_prob(distribution.rsample())
        assert list(calls.counts.values()) == [passes]


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("name", ["NAF", "CNF", "GF"])
def test_zukos_flows_that_compute_by_autograd_train_in_every_parameter(name, invert, binary_images):
    torch.manual_seed(0)
    flow = getattr(zuko.flows, name)(2, 4, hidden_features=(16,))
    posterior = ZukoPosterior(MLP((1, 4, 4), 4, hidden=(6,)), flow, invert)
    vae = VAE(StandardNormal(2), Bernoulli(MLP(2, (1, 4, 4), hidden=(6,))), posterior)
    noise = gradient_variance(ELBO(), vae, binary_images[:4], repeats=2)
    assert all(mean.abs().sum() > 0 for mean in noise.mean.values())
    before = {name: value.clone() for name, value in vae.named_parameters()}
    fit(vae, binary_images[:8], epochs=1, progress=False)
    assert all((value != before[name]).any() for name, value in vae.named_parameters())


@pytest.mark.parametrize("context", [0, 7])
def test_a_zuko_flow_of_another_context_is_refused_when_built(context):
    with pytest.raises(InputError, match=r"MAF .*\(5,\).*context=5"):
        ZukoPosterior(MLP(4, 5), zuko.flows.MAF(3, context))
