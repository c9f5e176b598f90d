"""Guides whose draws have no density, or have it elsewhere: the exact evidence, or a refusal."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from one_copy import assert_like_pyro, unless_refused
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoLaplaceApproximation
from torch import nn

from pyrovae import fit
from pyrovae.errors import InputError
from pyrovae.evaluation import inference_gaps, kl_decomposition, marginal_likelihood
from pyrovae.objectives import ELBO, IWAE
from pyrovae.programs import Pair

pytestmark = pytest.mark.cpu

NOISE = 0.6


class Linear(nn.Module):
    """z -> x, both Gaussian, so that the evidence and the posterior are known."""

    def __init__(self, guide):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0], [0.5], [-0.8]]))
        self.loc = nn.Parameter(0.5 * self.posterior_loc())  # off: half of the posterior's mean
        self.log_scale = nn.Parameter(torch.tensor(-0.2))
        self.own_guide = guide

    def posterior_loc(self):
        precision = 1 + self.weight.square().sum() / NOISE**2
        return (self.weight.T / NOISE**2 / precision).detach()

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, NOISE).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            self.own_guide(x @ self.loc.T, self.log_scale.exp())

    def log_px(self, x):
        covariance = self.weight @ self.weight.T + NOISE**2 * torch.eye(3)
        return dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x).detach().double()

    def elbo(self, x):
        """log p(x) - KL(q || posterior)."""
        precision = 1 + self.weight.square().sum() / NOISE**2
        posterior = dist.Normal(x @ self.posterior_loc().T, precision.rsqrt())
        q = dist.Normal(x @ self.loc.T, self.log_scale.exp())
        return (self.log_px(x) - torch.distributions.kl_divergence(q, posterior).sum(-1)).detach()


def normal(loc, scale):
    pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def point(loc, scale):
    pyro.sample("z", dist.Delta(loc, event_dim=1))


def point_and_factor(loc, scale):
    pyro.sample("z", dist.Delta(loc, event_dim=1))
    pyro.factor("penalty", -loc.square().sum(-1), has_rsample=True)


def own_noise(loc, scale):
    z = loc + scale * torch.randn_like(loc)
    pyro.sample("z", dist.Delta(z, dist.Normal(loc, scale).log_prob(z).sum(-1), event_dim=1))


def auxiliary_noise(loc, scale):
    eps = pyro.sample(
        "eps", dist.Normal(torch.zeros_like(loc), 1.0).to_event(1), infer={"is_auxiliary": True}
    )
    pyro.sample("z", dist.Delta(loc + scale * eps, -scale.log().expand(len(loc)), event_dim=1))


def auxiliary_point(loc, scale):
    z = pyro.sample("eps", dist.Normal(loc, scale).to_event(1), infer={"is_auxiliary": True})
    pyro.sample("z", dist.Delta(z, event_dim=1))


def factor_beside_own_noise(loc, scale):
    z = loc + scale * torch.randn_like(loc)
    pyro.sample("z", dist.Delta(z, event_dim=1))
    pyro.factor("log_q", dist.Normal(loc, scale).log_prob(z).sum(-1), has_rsample=True)


def factor_beside_auxiliary_noise(loc, scale):
    eps = pyro.sample(
        "eps", dist.Normal(torch.zeros_like(loc), 1.0).to_event(1), infer={"is_auxiliary": True}
    )
    pyro.sample("z", dist.Delta(loc + scale * eps, event_dim=1))
    pyro.factor("log_q", -scale.log().expand(len(loc)), has_rsample=True)


def data(num_data=4):
    return torch.randn(num_data, 3)


NAMES = ("'z'", "'log_q'", "'eps'")  # one of them is in each refusal


def assert_right_unless_refused(pair, x):
    result = unless_refused(lambda: marginal_likelihood(pair, x, num_samples=2000), *NAMES)
    if result is not None:
        assert ((result.log_px - pair.log_px(x)).abs() < 4.5 * result.std_error + 1e-4).all()
        assert (result.std_error > 1e-4).all()  # the guide is off, so the weights vary
        assert abs(result.elbo - pair.elbo(x).mean()) < 0.1


def test_the_closed_forms_are_those_of_a_plain_guide():
    pair, x = Linear(normal), data()
    result = marginal_likelihood(pair, x, num_samples=4000)
    assert ((result.log_px - pair.log_px(x)).abs() < 4.5 * result.std_error + 1e-4).all()
    assert abs(result.elbo - pair.elbo(x).mean()) < 0.1


@pytest.mark.parametrize("guide", [point, point_and_factor])
def test_a_latent_at_a_point_has_no_evidence(guide):
    pair, x = Linear(guide), data()
    for evaluate in (marginal_likelihood, inference_gaps, kl_decomposition):
        with pytest.raises(InputError, match="'z'"):
            evaluate(pair, x, num_samples=50)
    with pytest.raises(InputError, match="'z'"):
        IWAE(5).evaluate(pair, x)


def test_a_latent_at_a_point_trains_as_in_pyro():
    assert_like_pyro(ELBO(), Trace_ELBO(), Linear(point), data())


@pytest.mark.parametrize(
    "guide",
    [
        own_noise,
        auxiliary_noise,
        auxiliary_point,
        factor_beside_own_noise,
        factor_beside_auxiliary_noise,
    ],
)
def test_the_evidence_of_a_guide_with_a_stated_density_is_right_or_refused(guide):
    assert_right_unless_refused(Linear(guide), data())


@pytest.mark.parametrize("guide", [own_noise, auxiliary_noise, factor_beside_own_noise])
def test_the_importance_weighted_bound_uses_a_draw_for_each_particle(guide):
    pair, x = Linear(guide), data(2)
    many = x.repeat(500, 1)
    evaluated = unless_refused(lambda: IWAE(50).evaluate(pair, many).loss, *NAMES)
    if evaluated is None:
        return
    bound = -float(evaluated.detach()) / 1000
    with torch.no_grad():
        plain = Linear(normal)
        expected = -float(IWAE(50).evaluate(plain, many).loss) / 1000
    assert abs(bound - expected) < 0.05
    assert expected - pair.elbo(x).mean() > 0.3  # one shared draw would give the ELBO


@pytest.mark.parametrize("guide", [own_noise, auxiliary_noise, factor_beside_own_noise])
def test_beta_weighs_the_density_wherever_it_is_stated(guide):
    """The loss is that of a guide that draws z from its normal."""

    def loss(guide):
        torch.manual_seed(0)
        options = {"batch_size": 2000, "epochs": 1, "beta": 0.3, "progress": False, "compile": "off"}
        still = lambda parameters: torch.optim.SGD(parameters, lr=0.0)  # noqa: E731
        return fit(Linear(guide), data(2).repeat(1000, 1), optimizer=still, **options)["loss"][0]

    entropy = dist.Normal(0.0, Linear(normal).log_scale.exp()).entropy()
    # 2,000 draws of z, whose terms have a standard deviation of about 3 nats
    assert abs(loss(guide) - loss(normal)) < 0.3
    assert 0.7 * entropy > 0.6  # the difference if beta did not weigh log q


def assert_right_gradient(loss, pair, x):
    """The ELBO's gradient is minus that of KL(q || posterior)."""
    precision = 1 + pair.weight.detach().square().sum() / NOISE**2
    posterior = dist.Normal(x @ pair.posterior_loc().T, precision.rsqrt())
    q = dist.Normal(x @ pair.loc.T, pair.log_scale.exp())
    kl = torch.distributions.kl_divergence(q, posterior).sum()
    parameters = [pair.loc, pair.log_scale]
    found, expected = torch.autograd.grad(loss, parameters), torch.autograd.grad(kl, parameters)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.15)


@pytest.mark.parametrize("guide", [own_noise, auxiliary_noise, auxiliary_point, factor_beside_own_noise])
def test_the_elbo_is_right_with_its_gradient(guide):
    pair, x = Linear(guide), data(2)
    loss = ELBO().evaluate(pair, x.repeat(3000, 1)).loss / 3000
    assert abs(-loss.detach() - pair.elbo(x).sum()) < 0.15
    assert_right_gradient(loss, pair, x)


def test_a_factor_without_gradient_through_its_draw_is_right_or_refused():
    """`has_rsample=False` lets Pyro add the score function's term to a draw that is reparameterised."""

    def without_rsample(loc, scale):
        z = loc + scale * torch.randn_like(loc)
        pyro.sample("z", dist.Delta(z, event_dim=1))
        pyro.factor("log_q", dist.Normal(loc, scale).log_prob(z).sum(-1), has_rsample=False)

    pair, x = Linear(without_rsample), data(2)
    bound = unless_refused(lambda: ELBO().evaluate(pair, x.repeat(3000, 1)), "'log_q'")
    if bound is not None:
        assert_right_gradient(bound.loss / 3000, pair, x)


class Two(nn.Module):
    """Two latents: one has its own density, the other is a point beside which a factor stands."""

    def __init__(self, own_density):
        super().__init__()
        self.encoder = nn.Linear(3, 2)
        self.own_density = own_density

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            w = pyro.sample("w", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(torch.stack([z, w, z + w], -1), 1.0).to_event(1), obs=x)

    def guide(self, x):
        a, b = self.encoder(x).unbind(-1)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(a, 1.0))
            if self.own_density:
                pyro.sample("w", dist.Normal(b, 1.0))
                pyro.factor("extra", -(z - b).square(), has_rsample=True)
            else:
                w = b + torch.randn_like(b)
                pyro.sample("w", dist.Delta(w))
                pyro.factor("extra", dist.Normal(b, 1.0).log_prob(w), has_rsample=True)

    def log_px(self, x):
        mixing = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 1.0]])  # of z and w - z
        covariance = mixing @ mixing.T + torch.eye(3)
        return dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x).double()


def test_a_factor_that_may_be_log_q_or_a_training_term_has_no_evidence():
    with pytest.raises(InputError, match="'extra'"):
        marginal_likelihood(Two(own_density=False), data(), num_samples=50)


def test_a_factor_beside_latents_with_densities_is_left_out_of_evidence():
    pair, x = Two(own_density=True), data()
    result = marginal_likelihood(pair, x, num_samples=4000)
    assert ((result.log_px - pair.log_px(x)).abs() < 4.5 * result.std_error + 1e-4).all()
    assert "extra" in str(result)  # the result says so
    assert_like_pyro(ELBO(), Trace_ELBO(), pair, x)


class Mixture(nn.Module):
    """y -> x; the guide draws the class, nearly always the wrong one."""

    def __init__(self, enumerate):
        super().__init__()
        self.infer = {"enumerate": "parallel"} if enumerate else {}

    def model(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(2) / 2))
            pyro.sample("x", dist.Normal(torch.tensor([-4.0, 4.0])[y], 1.0), obs=x[:, 0])

    def guide(self, x):
        with pyro.plate("data", len(x)):
            probs = torch.tensor([1 - 1e-6, 1e-6]).expand(len(x), 2)
            pyro.sample("y", dist.Categorical(probs), infer=self.infer)


def test_draws_that_miss_a_class_have_no_error_of_zero():
    x = torch.full((3, 1), 4.0)
    exact = torch.stack([dist.Normal(m, 1.0).log_prob(x[:, 0]) for m in (-4.0, 4.0)]).logsumexp(0)
    exact = exact.double() - math.log(2)
    summed = marginal_likelihood(Mixture(enumerate=True), x, num_samples=40)
    torch.testing.assert_close(summed.log_px, exact, rtol=0, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the result's own warning
        drawn = marginal_likelihood(Mixture(enumerate=False), x, num_samples=200)
    off = (drawn.log_px - exact).abs() > 1
    assert off.any()
    assert not (drawn.std_error[off] < 1).any()  # NaN: not known


# A Delta behind an auxiliary site, as in AutoLaplaceApproximation


def regression(x):
    """w ~ N(0, 1), x_n ~ N(w, 1)."""
    w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(w, 1.0), obs=x[:, 0])


def at_its_mode(model, x, autoguide):
    guide = autoguide(model)
    fit(
        Pair(model, guide),
        x,
        epochs=1,
        batch_size=len(x),
        progress=False,
        optimizer=lambda p: torch.optim.SGD(p, 0.0),
    )
    return guide


@pytest.mark.parametrize("joint", [False, True])
def test_a_local_latent_at_a_point_behind_an_auxiliary_site_is_refused(joint, param_store):
    model, x = Linear(normal).model, data()
    guide = at_its_mode(model, x, AutoLaplaceApproximation)
    with pytest.raises(InputError, match="the guide sets 'z' to a point"):
        marginal_likelihood(Pair(model, guide), x, joint=joint, num_samples=10)


def test_a_global_latent_at_a_point_behind_an_auxiliary_site_is_a_parameter(param_store):
    x = data()[:, :1]
    guide = at_its_mode(regression, x, AutoLaplaceApproximation)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = marginal_likelihood(Pair(regression, guide), x, joint=True, num_samples=40)
    w = guide.loc.detach()
    torch.testing.assert_close(result.log_px.sum(), dist.Normal(w, 1.0).log_prob(x).sum().double())
    assert any("'w'" in note and "point" in note for note in result.notes)
    assert result.std_error.item() == pytest.approx(0, abs=1e-6)


def test_the_normal_that_replaces_the_point_is_the_posterior(param_store):
    """After Laplace's approximation, which is exact here, each weight is p(x_1, ..., x_N)."""
    x = data()[:, :1]
    guide = AutoLaplaceApproximation(regression)
    options = {"epochs": 400, "batch_size": len(x), "progress": False, "compile": "off"}
    fit(Pair(regression, guide), x, optimizer=lambda p: torch.optim.Adam(p, 0.05), **options)
    result = marginal_likelihood(
        Pair(regression, guide.laplace_approximation(x)), x, joint=True, num_samples=40
    )
    covariance = torch.eye(len(x)) + torch.ones(len(x), len(x))
    exact = dist.MultivariateNormal(torch.zeros(len(x)), covariance).log_prob(x[:, 0])
    assert result.log_px.item() == pytest.approx(exact.item(), abs=2e-3)
