"""Active units: the variance over data of each latent's mean, against sums written out."""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.evaluation import active_units
from pyrovae.flows import Planar
from pyrovae.models import VAE
from pyrovae.networks import MLP
from pyrovae.posteriors import FlowPosterior
from pyrovae.programs.pair import Pair


def coded(posterior):
    """A pair whose data are x of shape (N, D), with a standard normal prior."""

    def model(x):
        with pyro.plate("rows", len(x)):
            size = posterior(x).event_shape
            pyro.sample("code", dist.Normal(x.new_zeros(size), 1.0).to_event(len(size)))
            pyro.sample("x", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("code", posterior(x))

    return Pair(model, guide)


def double(*values):
    return torch.tensor(values, dtype=torch.double)


def test_units_are_active_where_their_means_move_with_the_data(tmp_path):
    slopes = double(1.0, 0.0, 0.05, 0.2)
    x = torch.randn(500, 1).double()
    pair = coded(lambda x, name="code": dist.Normal(x * slopes, 0.5).to_event(1))
    result = active_units(pair, x)
    torch.testing.assert_close(result.variances["code"], slopes.square() * x.var())
    assert result.active["code"].tolist() == [True, False, False, True]
    assert result.counts == {"code": 2}
    assert active_units(pair, x, threshold=0.001).counts == {"code": 3}
    assert "2 have a variance of E[code | x] above 0.01 (over 500 data)" in str(result)
    result.to_json(tmp_path / "units.json")
    content = json.loads((tmp_path / "units.json").read_text())
    assert content["summary"]["active_units"] == {"code": 2}
    assert content["variances"]["code"] == result.variances["code"].tolist()


def test_a_units_information_is_that_of_a_gaussian_channel():
    """z = a x + noise: I(x; z) = 1/2 log(1 + a^2 Var(x) / noise^2)."""
    slopes = double(1.0, 0.0, 0.11, 0.2)
    x = torch.randn(500, 1).double()
    pair = coded(lambda x, name="code": dist.Normal(x * slopes, 0.5).to_event(1))
    result = active_units(pair, x, num_samples=1000)
    expected = 0.5 * torch.log1p(slopes.square() * x.var() / 0.25)
    torch.testing.assert_close(result.information["code"], expected, rtol=0.02, atol=1e-6)
    assert result.informative_counts == {"code": 1}
    assert result.total_information["code"] == pytest.approx(expected.sum().item(), rel=0.02)


def test_units_that_vary_and_tell_nothing_are_not_said_to_carry_information():
    """Six means have a variance above 0.01 beside a posterior of scale 1: 0.03 nats in all."""
    slopes = double(0.105, 0.105, 0.105, 0.105, 0.105, 0.105, 0.0, 0.0, 0.0, 0.0)
    x = torch.randn(4000, 10).double()
    pair = coded(lambda x, name="z": dist.Normal(x * slopes, 1.0).to_event(1))
    result = active_units(pair, x, num_samples=20)
    assert result.counts == {"code": 6}
    assert result.total_information["code"] == pytest.approx(6 * 0.5 * math.log1p(0.105**2), rel=0.2)
    assert str(result).startswith("code: 0 of 10 units carry information (0.1 nats or more), 0.03 nats")


def test_where_there_is_no_mean_draws_stand_for_it_and_their_noise_is_taken_off():
    def posterior(x, name="code"):
        centre = torch.cat([x, 0 * x], 1)
        shift = [dist.transforms.AffineTransform(0.0, 1.0)]
        return dist.TransformedDistribution(dist.Normal(centre, 1.0).to_event(1), shift)

    x = torch.randn(2000, 1).double()
    pair = coded(posterior)
    result = active_units(pair, x, num_samples=10)
    variances = result.variances["code"]
    # The mean of 10 draws has a variance of 0.1 of its own; what is left is its error over 2000 data.
    assert variances[0].item() == pytest.approx(x.var().item(), abs=4 * 0.1)
    assert abs(variances[0].item() - x.var().item()) < 4 * (2 * x.var().item() * 0.1**0.5) / 2000**0.5
    assert variances[1].item() < 4 * 0.1 * (2 / 2000) ** 0.5
    assert result.counts == {"code": 1} or variances[1] < 0.02


def test_means_are_averaged_over_what_they_depend_on(make_m2, binary_images):
    m2, x = make_m2(), binary_images.double()
    result = active_units(m2, x, num_samples=2000)
    assert set(result.variances) == {"z"}  # a class has no mean
    probabilities = m2.classifier(x).probs.detach()
    means = torch.stack([m2.posterior(x, torch.full((24,), y)).mean.detach() for y in range(3)], -1)
    expected = (means * probabilities[:, None]).sum(-1).var(0)
    torch.testing.assert_close(result.variances["z"], expected, rtol=0.05, atol=1e-4)


def test_a_pair_without_a_continuous_latent_has_no_units():
    def model(x):
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Normal(k.float(), 1.0), obs=x.squeeze(-1))

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("k", dist.Categorical(torch.ones(len(x), 2)))

    with pytest.raises(InputError, match="no continuous latent"):
        active_units(Pair(model, guide), torch.zeros(3, 1))


def test_settings_of_active_units_out_of_range_are_refused(make_vae, binary_images):
    vae = make_vae()
    with pytest.raises(InputError, match="num_samples is 1: a variance needs at least 2"):
        active_units(vae, binary_images, num_samples=1)
    with pytest.raises(InputError, match="number of data is 1: a variance"):
        active_units(vae, binary_images[:1])
    with pytest.raises(InputError, match="threshold is -1"):
        active_units(vae, binary_images, threshold=-1)


def test_a_flow_that_cannot_score_has_active_units(make_vae, binary_images):
    vae = make_vae()
    flow = VAE(vae.prior, vae.likelihood, FlowPosterior(MLP((1, 4, 4), 6, hidden=(8,)), 2, Planar(2)))
    assert active_units(flow, binary_images).variances["z"].shape == (2,)
