"""Networks that take a batch `(B, ...)` and nothing else, in the decoder and in the encoder."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from one_copy import assert_elbo, assert_evidence, assert_iwae, one_copy_at_a_time, trained
from torch import nn

from pyrovae.evaluation import inference_gaps
from pyrovae.objectives import IWAE

pytestmark = pytest.mark.cpu

NUM_DATA = 3


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def convolutions(inputs, outputs):
    side = nn.Sequential(nn.Linear(inputs, 4), nn.Unflatten(1, (1, 2, 2)))
    return nn.Sequential(side, nn.ConvTranspose2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(18, outputs))


def view_as_image(inputs, outputs):
    head = nn.Sequential(nn.Linear(inputs, 8), Lambda(lambda h: h.view(-1, 2, 2, 2)), nn.Conv2d(2, 2, 2))
    return nn.Sequential(head, Lambda(lambda h: h.view(-1, 2)), nn.Tanh(), nn.Linear(2, outputs))


def softmax_over_dim_1(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 4), nn.Softmax(dim=1), nn.Linear(4, outputs))


def normalise(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 5), Lambda(F.normalize), nn.Linear(5, outputs))


def batch_norm(inputs, outputs):
    norm = nn.BatchNorm1d(4)
    norm.running_mean.uniform_(-0.5, 0.5)
    norm.running_var.uniform_(0.5, 1.5)
    return nn.Sequential(nn.Linear(inputs, 4), norm, nn.Tanh(), nn.Linear(4, outputs))


class Recurrent(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.gru = nn.GRU(1, 3, batch_first=True)
        self.out = nn.Linear(3, outputs)

    def forward(self, x):
        return self.out(self.gru(x.unsqueeze(2))[1].squeeze(0))


class Transformer(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.embed = nn.Linear(1, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.out = nn.Linear(4 * inputs, outputs)

    def forward(self, x):
        return self.out(self.layer(self.embed(x.unsqueeze(2))).flatten(1))


def flattened(inputs, outputs):
    mlp = nn.Sequential(nn.Linear(inputs, 5), nn.Tanh(), nn.Linear(5, outputs))
    return nn.Sequential(Lambda(lambda x: x.view(len(x), -1)), mlp)


def pool_of_unpacked_shape(inputs, outputs):
    def pooled(h):
        rows, features = h.shape
        return h.reshape(rows, features // 2, 2).amax(2)

    return nn.Sequential(nn.Linear(inputs, 8), Lambda(pooled), nn.Linear(4, outputs))


NETWORKS = {
    "convolutions": convolutions,
    "view(-1, C, H, W)": view_as_image,
    "softmax(dim=1)": softmax_over_dim_1,
    "F.normalize": normalise,
    "BatchNorm": batch_norm,
    "GRU": Recurrent,
    "transformer": Transformer,
    "view(len(x), -1)": flattened,
    "rows, features = h.shape": pool_of_unpacked_shape,
}


class Own(nn.Module):
    """z -> x with two latent dimensions and three observed ones."""

    def __init__(self, decoder, encoder, flow=False):
        super().__init__()
        self.decoder, self.encoder = decoder, encoder
        self.flow = dist.transforms.Planar(2) if flow else None

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.8).to_event(1), obs=x)

    def guide(self, x):
        loc, scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            q = dist.Normal(loc, 1 + 0.4 * scale.sigmoid()).to_event(1)
            pyro.sample("z", q if self.flow is None else dist.TransformedDistribution(q, [self.flow]))


def data(num_data=NUM_DATA):
    return torch.randn(num_data, 3, generator=torch.Generator().manual_seed(1))


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs)


def pair_of(place, name, flow=False):
    networks = {"decoder": linear, "encoder": linear, place: NETWORKS[name]}
    if place == "both":
        networks |= {"decoder": NETWORKS[name], "encoder": NETWORKS[name]}
    return Own(networks["decoder"](2, 3), networks["encoder"](3, 4), flow).eval()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("place", ["decoder", "encoder"])
def test_evidence_and_bounds_are_those_of_one_copy_at_a_time(place, name):
    pair, x = pair_of(place, name), data()
    reference = one_copy_at_a_time(pair, x, nodes=16)
    assert_evidence(pair, x, reference=reference)
    assert_elbo(pair, x, reference=reference)
    assert_iwae(pair, x, reference=reference)


@pytest.mark.parametrize("name", ["view(-1, C, H, W)", "softmax(dim=1)", "F.normalize", "transformer"])
def test_with_a_flow_guide_too(name):
    pair, x = pair_of("both", name, flow=True), data()
    reference = one_copy_at_a_time(pair, x, nodes=16)
    assert_evidence(pair, x, reference=reference)
    assert_iwae(pair, x, reference=reference)


@pytest.mark.parametrize("name", ["convolutions", "softmax(dim=1)", "GRU"])
def test_gaps_are_those_of_one_copy_at_a_time(name):
    pair, x = pair_of("decoder", name), data()
    reference = one_copy_at_a_time(pair, x)
    gaps = inference_gaps(pair, x, num_samples=2000, steps=100)
    for found, exact, error in [
        (gaps.log_px, reference.log_px, gaps.std_error["log_px"]),
        (gaps.elbo, reference.elbo, gaps.std_error["elbo"]),
        (gaps.total, reference.log_px - reference.elbo, gaps.std_error["total"]),
    ]:
        assert ((found - exact).abs() < 4.5 * error + 1e-3).all()


def test_gaps_of_a_linear_convolution_have_a_closed_form():
    decoder = nn.Sequential(nn.Unflatten(1, (2, 1, 1)), nn.ConvTranspose2d(2, 1, (1, 3)), nn.Flatten())
    pair, x = Own(decoder, linear(3, 4)).eval(), data()
    with torch.no_grad():
        bias = decoder(torch.zeros(1, 2))
        weight = (decoder(torch.eye(2)) - bias).T  # (3, 2)
    covariance = weight @ weight.T + 0.64 * torch.eye(3)
    log_px = torch.distributions.MultivariateNormal(bias[0], covariance).log_prob(x)
    # The best diagonal Gaussian has the posterior's mean and the precision's diagonal.
    precision = torch.eye(2) + weight.T @ weight / 0.64
    approximation = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    gaps = inference_gaps(pair, x, num_samples=4000, steps=300)
    assert ((gaps.log_px - log_px).abs() < 4.5 * gaps.std_error["log_px"] + 1e-4).all()
    error = 4.5 * gaps.std_error["approximation"] + 2e-3  # the search stops just short of the optimum
    assert ((gaps.approximation - approximation).abs() < error).all()


def test_such_a_network_trains_by_the_importance_weighted_bound():
    pair, x = pair_of("both", "convolutions"), data(32)
    history = trained(pair, x, objective=IWAE(4), epochs=20)
    assert history["elbo"][-1] > history["elbo"][0]
    pair.eval()
    assert_evidence(pair, x[:3], reference=one_copy_at_a_time(pair, x[:3]))


def test_a_networks_dropout_is_off_in_evaluation():
    class WithDropout(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.drop = nn.Linear(2, 3), nn.Dropout(0.5)

        def forward(self, z):
            return self.net(self.drop(z).view(len(z), -1))

    pair, x = Own(WithDropout(), linear(3, 4)), data()
    pair.train()
    reference = one_copy_at_a_time(pair.eval(), x)
    pair.train()
    assert_evidence(pair, x, reference=reference)
    assert pair.training
