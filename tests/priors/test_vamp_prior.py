"""VampPrior: its mixture, its pseudo-inputs, and the posterior that it shares with the model."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from flow_cases import (
    FEATURES,
    build,
)
from torch import nn

from pyrovae import fit
from pyrovae.distributions.zuko_import import zuko
from pyrovae.errors import InputError
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import VAE
from pyrovae.networks import MLP, WithClass
from pyrovae.posteriors import (
    DiagonalNormal,
    ZukoPosterior,
)
from pyrovae.priors import (
    VampPrior,
)

pytestmark = pytest.mark.cpu


def test_a_vamp_prior_mixes_a_flows_densities_at_its_pseudo_inputs():
    posterior = build("inverse autoregressive", strength=0.3)
    prior = VampPrior(posterior, FEATURES, 4, bounds=None)
    z = torch.randn(5, 3).double()
    each = torch.stack([posterior(u).log_prob(z) for u in prior.pseudo_inputs])
    torch.testing.assert_close(prior().log_prob(z), each.logsumexp(0) - math.log(4))


@pytest.mark.parametrize(
    "make", [zuko.flows.MAF, zuko.flows.NICE, zuko.flows.NSF], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("invert", [False, True])
def test_a_vamp_prior_mixes_zukos_flows_too(make, invert):
    torch.manual_seed(0)
    posterior = ZukoPosterior(MLP(FEATURES, 8), make(3, 8), invert).double()
    prior = VampPrior(posterior, FEATURES, 4, bounds=None)
    z = torch.randn(5, 3).double()
    each = torch.stack([posterior(u[None]).log_prob(z) for u in prior.pseudo_inputs])
    torch.testing.assert_close(prior().log_prob(z), each.logsumexp(0) - math.log(4))


def test_a_vamp_prior_refuses_a_flow_that_cannot_score_others_draws():
    with pytest.raises(InputError, match=r"FlowPosterior .*own draws only"):
        VampPrior(build("planar"), FEATURES, 4)


IMAGE = (1, 4, 4)


def encoder(latent_dim=2, classes=0):
    features = MLP(IMAGE, 6, hidden=(8,))
    if classes:
        features = WithClass(MLP(6 + classes, 5, hidden=(8,)), classes, features)
    return DiagonalNormal(features, latent_dim)


def test_pseudo_inputs_begin_as_the_data_and_stay_within_their_bounds():
    prior = VampPrior(encoder(), IMAGE, pseudo_inputs=5).double()
    x = torch.rand(9, *IMAGE).double()
    prior.start_at(x)
    nearest = (prior.pseudo_inputs[:, None] - x).flatten(2).abs().amax(-1)
    chosen = nearest.argmin(-1)
    assert len(chosen.unique()) == 5
    assert nearest.amin(-1).max() < 0.011
    prior.start_at(x.round())
    assert prior.pseudo_inputs.min() > 0.009
    assert prior.pseudo_inputs.max() < 0.991
    (gradient,) = torch.autograd.grad(prior.pseudo_inputs.sum(), prior.free)
    assert gradient.min() > 0.01  # black and white pixels are not stuck
    with torch.no_grad():
        prior.free.fill_(0.5)
    (gradient,) = torch.autograd.grad(prior.pseudo_inputs.sum(), prior.free)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))


@pytest.mark.parametrize("bounds", [(0.0, 255.0), (-1.0, 1.0), None])
def test_pseudo_inputs_take_the_datas_own_bounds(bounds):
    prior = VampPrior(encoder(), IMAGE, pseudo_inputs=5, bounds=bounds).double()
    low, high = bounds or (-40.0, 40.0)
    x = low + (high - low) * (0.1 + 0.8 * torch.rand(5, *IMAGE).double())
    prior.start_at(x)
    found = prior.pseudo_inputs[prior.pseudo_inputs[:, 0, 0, 0].argsort()]
    torch.testing.assert_close(found, x[x[:, 0, 0, 0].argsort()])


class OnlyOwnDraws(DiagonalNormal):
    """A posterior like a planar flow's, which cannot tell the density of a point it did not draw."""

    def forward(self, *context):
        class Forgetful(dist.Normal):
            def log_prob(self, value):
                raise InputError("the Planar flow has no inverse")

        return Forgetful(torch.zeros(len(context[0]), 2), 1.0).to_event(1)


def test_a_posterior_that_scores_its_own_draws_only_is_refused_for_a_vamp_prior():
    with pytest.raises(InputError, match=r"OnlyOwnDraws .*own draws only"):
        VampPrior(OnlyOwnDraws(MLP(IMAGE, 6), 2), IMAGE, 5)


def test_building_a_vamp_prior_draws_nothing_but_its_pseudo_inputs():
    posterior = encoder()
    torch.manual_seed(1)
    VampPrior(posterior, IMAGE, 5)
    found = torch.rand(())
    torch.manual_seed(1)
    torch.randn(5, *IMAGE)
    assert found == torch.rand(())


class LazyNetwork(nn.Sequential):
    out_shape = (6,)

    def __init__(self):
        super().__init__(nn.Flatten(), nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.LazyLinear(6))


@pytest.mark.parametrize("learn_weights", [False, True])
def test_a_lazy_posterior_gets_its_shapes_from_the_pseudo_inputs(learn_weights):
    posterior = DiagonalNormal(LazyNetwork(), 2)
    prior = VampPrior(posterior, IMAGE, 5, learn_weights=learn_weights).eval()
    z = torch.randn(3, 2)
    components = posterior(prior.pseudo_inputs).log_prob(z[:, None])
    expected = torch.logsumexp(components, -1) - math.log(5)
    assert torch.allclose(prior().log_prob(z), expected, atol=1e-5)
    assert posterior.training is False
    assert torch.equal(posterior.network[2].running_mean, torch.zeros(4))


class InHalf(nn.Module):
    """Computes in half precision, from and to single precision."""

    out_shape = (6,)

    def __init__(self, dtype):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 6)).to(dtype)
        self.dtype = dtype

    def forward(self, x):
        assert x.dtype == torch.float32
        return self.net(x.to(self.dtype)).float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pseudo_inputs_are_trained_in_single_precision_behind_an_encoder_in_half(dtype, binary_images):
    posterior = DiagonalNormal(InHalf(dtype), 2)
    prior = VampPrior(posterior, IMAGE, 5)
    before = prior.free.detach().clone()
    vae = VAE(prior, Bernoulli(MLP(2, IMAGE, hidden=(8,))), posterior)
    fit(vae, binary_images, epochs=2, progress=False)
    assert prior.free.dtype == torch.float32
    assert (prior.free != before).all()


def test_a_posterior_that_takes_data_in_half_precision_alone_is_refused():
    posterior = DiagonalNormal(MLP(IMAGE, 6), 2).bfloat16()
    with pytest.raises(InputError, match=r"single precision.*vae\.to\(torch\.bfloat16\)"):
        VampPrior(posterior, IMAGE, 5)
    posterior.float()
    prior = VampPrior(posterior, IMAGE, 5).to(torch.bfloat16)
    assert prior().log_prob(torch.zeros(2, dtype=torch.bfloat16)).isfinite()


@pytest.fixture
def shared():
    posterior = encoder()
    prior = VampPrior(posterior, IMAGE, pseudo_inputs=5)
    return VAE(prior, Bernoulli(MLP(2, IMAGE, hidden=(8,))), posterior)


def test_the_shared_posterior_counts_once_and_stays_shared(shared, binary_images):
    names = [name for name, _ in shared.named_parameters()]
    own = sum(1 for _ in shared.posterior.parameters()) + sum(1 for _ in shared.likelihood.parameters())
    assert len(names) == own + 1  # and the pseudo-inputs
    for other in (copy.deepcopy(shared), copy.deepcopy(shared).double()):
        assert other.prior.posterior is other.posterior
        assert other.posterior is not shared.posterior
        assert len(list(other.parameters())) == len(names)
    double = copy.deepcopy(shared).double()
    assert double.prior().log_prob(torch.zeros(2).double()).dtype == torch.float64
    # The prior moves with the posterior.
    before = shared.prior().log_prob(torch.zeros(2))
    with torch.no_grad():
        shared.posterior.loc.bias.add_(1)
    assert shared.prior().log_prob(torch.zeros(2)) != before


def test_a_saved_vamp_prior_is_put_back_with_its_posterior(shared, tmp_path):
    torch.save(shared.state_dict(), tmp_path / "vae.pt")
    torch.manual_seed(1)
    posterior = encoder()
    other = VAE(VampPrior(posterior, IMAGE, 5), Bernoulli(MLP(2, IMAGE, hidden=(8,))), posterior)
    other.load_state_dict(torch.load(tmp_path / "vae.pt", weights_only=True))
    z = torch.randn(3, 2)
    assert torch.equal(other.prior().log_prob(z), shared.prior().log_prob(z))
    assert other.prior.posterior is other.posterior


def test_a_run_with_a_vamp_prior_resumes_to_the_same_parameters(shared, binary_images, tmp_path):
    other, x = copy.deepcopy(shared), binary_images
    fit(shared, x, epochs=3, progress=False)
    fit(other, x, epochs=1, folder=tmp_path, progress=False)
    torch.manual_seed(1)
    posterior = encoder()
    fresh = VAE(VampPrior(posterior, IMAGE, 5), Bernoulli(MLP(2, IMAGE, hidden=(8,))), posterior)
    fit(fresh, x, epochs=3, folder=tmp_path, resume=True, progress=False)
    for (name, one), two in zip(shared.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, two), name
