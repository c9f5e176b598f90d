"""The moments of gradients: against gradients taken one by one, and a variance known in closed form."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrovae.compute.devices import seeded
from pyrovae.errors import InputError
from pyrovae.evaluation.gradients import GradientVariance, gradient_variance
from pyrovae.objectives import ELBO, IWAE, ScoreFunctionELBO
from pyrovae.programs.pair import Pair


@pytest.fixture
def vae(make_vae):
    return make_vae().double()


@pytest.fixture
def x(binary_images):
    return binary_images.double()[:6]


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def guide(x):
    loc = pyro.param("loc", torch.tensor(0.5).double())
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, torch.tensor(0.6).double().expand(len(x))))


def test_mean_and_variance_are_those_of_a_gradient_known_in_closed_form():
    """With z = loc + 0.6 eps, the loss of a datum has d/dloc = z + (z - x): mean 2 loc - x, variance
    4 * 0.36; over a minibatch of B the mean over x, and the variance by B."""
    x = torch.tensor([[0.2], [1.0], [-0.6], [3.0]]).double()
    found = gradient_variance(ELBO(), Pair(model, guide), x, repeats=500)
    assert list(found.mean) == ["loc"]
    assert found.variance["loc"].item() == pytest.approx(4 * 0.36 / 4, rel=4 * math.sqrt(2 / 500))
    error = found.std_error["loc"].item()
    assert error == pytest.approx(math.sqrt(0.36 / 500), rel=0.1)
    assert found.mean["loc"].item() == pytest.approx(1 - x.mean().item(), abs=4 * error)
    assert found.total_variance == pytest.approx(found.variance["loc"].item())
    true_ratio = (x.mean().item() - 1) / 0.6
    assert found.signal_to_noise == pytest.approx(abs(true_ratio), rel=0.5)


def test_a_complex_parameter_counts_with_both_of_its_parts():
    class Guide(torch.nn.Module):
        def __init__(self, parts):
            super().__init__()
            self.weight = torch.nn.Parameter(parts)

        def forward(self, x):
            parts = torch.view_as_real(self.weight) if self.weight.is_complex() else self.weight
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(parts[0] + parts[1] * x[:, 0], 0.6))

    x, parts = torch.tensor([[0.2], [1.0], [-0.6]]).double(), torch.tensor([0.5, -0.3]).double()
    pairs = [Pair(model, Guide(weight)) for weight in (torch.complex(*parts), parts)]
    found, real = (gradient_variance(ELBO(), pair, x, repeats=20) for pair in pairs)
    mean = found.mean["weight"]
    torch.testing.assert_close(torch.view_as_real(mean), real.mean["weight"])
    torch.testing.assert_close(found.variance["weight"], real.variance["weight"].sum())
    assert found.signal_to_noise == pytest.approx(real.signal_to_noise)
    assert found.total_variance == pytest.approx(real.total_variance)


def test_the_moments_are_those_of_gradients_taken_one_by_one(vae, x):
    found = gradient_variance(IWAE(3), vae, x, repeats=7)
    drawn = []
    objective = IWAE(3)
    with seeded(0):
        for _ in range(7):
            vae.zero_grad()
            (objective.differentiable_loss(vae.model, vae.guide, x) / 6).backward()
            drawn.append({name: value.grad.clone() for name, value in vae.named_parameters()})
    assert found.mean.keys() == drawn[0].keys()
    for name in found.mean:
        values = torch.stack([gradient[name] for gradient in drawn])
        torch.testing.assert_close(found.mean[name], values.mean(0))
        torch.testing.assert_close(found.variance[name], values.var(0))


def test_nothing_of_the_callers_is_touched(vae, x):
    vae.likelihood.eval()
    for value in vae.parameters():
        value.grad = torch.full_like(value, 3.0)
    before = torch.get_rng_state()
    one = gradient_variance(IWAE(2, doubly_reparameterised=True), vae, x, repeats=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert all((value.grad == 3).all() for value in vae.parameters())
    assert vae.training
    assert not vae.likelihood.training
    torch.rand(1)
    again = gradient_variance(IWAE(2, doubly_reparameterised=True), vae, x, repeats=3)
    other = gradient_variance(IWAE(2, True), vae, x, repeats=3, seed=1)
    torch.testing.assert_close(one.mean, again.mean, rtol=0, atol=0)
    assert one.total_variance != other.total_variance


def test_classes_are_given_to_the_programs(make_m2, x, classes):
    m2 = make_m2()
    known = gradient_variance(ELBO(), m2, x, classes[:6], repeats=2)
    unknown = gradient_variance(ELBO(), m2, x, repeats=2)
    assert not known.of("classifier").mean["classifier.network.layers.0.weight"].any()
    assert unknown.of("classifier").mean["classifier.network.layers.0.weight"].any()


def test_parts_can_be_looked_at_by_themselves(vae, x):
    whole = gradient_variance(ScoreFunctionELBO(), vae, x, repeats=5)
    guide, model = whole.of("posterior"), whole.of("likelihood")
    assert guide.total_variance + model.total_variance == pytest.approx(whole.total_variance)
    assert set(guide.mean) == {name for name in whole.mean if name.startswith("posterior")}
    assert guide.summary() == {
        "total_variance": guide.total_variance,
        "signal_to_noise": guide.signal_to_noise,
        "num_parameters": sum(value.numel() for value in vae.posterior.parameters()),
        "repeats": 5,
    }
    with pytest.raises(InputError, match=r"no parameter begins with \('encoder',\); there are likelihood"):
        whole.of("encoder")


def test_the_ratio_is_that_of_the_mean_without_its_own_noise():
    def found(mean, variance):
        return GradientVariance({"w": torch.tensor(mean)}, {"w": torch.tensor(variance)}, repeats=4)

    # |mean|^2 = 25, of which 2 + 6 over 4 repeats are noise
    assert found([3.0, 4.0], [2.0, 6.0]).signal_to_noise == pytest.approx(math.sqrt(23 / 8))
    assert found([0.1, 0.0], [2.0, 6.0]).signal_to_noise == 0
    assert found([3.0, 4.0], [0.0, 0.0]).signal_to_noise == math.inf
    assert math.isnan(found([0.0, 0.0], [0.0, 0.0]).signal_to_noise)


def test_what_has_no_variance_is_refused(vae, x):
    with pytest.raises(InputError, match="repeats is 1; a variance needs at least 2"):
        gradient_variance(ELBO(), vae, x, repeats=1)
    with pytest.raises(InputError, match="outside the support of the Bernoulli"):
        gradient_variance(ELBO(), vae, x / 3)
    vae.requires_grad_(False)
    with pytest.raises(InputError, match=r"no parameter .* requires a gradient"):
        gradient_variance(ELBO(), vae, x)
