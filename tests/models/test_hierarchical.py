"""The VAE with two levels, where everything is linear and Gaussian against the exact evidence."""

import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import MultivariateNormal
from pyro.infer import SVI, Trace_ELBO

from pyrovae import fit, plate_diagram
from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.generation import (
    code_site,
    decode,
    interpolate,
    latent_codes,
    latent_means,
    manifold,
    prior_density,
    prior_quantiles,
    reconstruct,
    sample_images,
    traverse,
)
from pyrovae.likelihoods import Bernoulli, Gaussian
from pyrovae.models import HierarchicalVAE
from pyrovae.networks import MLP, GatedMLP, Joined
from pyrovae.objectives import ELBO
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal, VampPrior
from pyrovae.programs.densities import trace_log_probs
from pyrovae.programs.structure import structure

pytestmark = pytest.mark.cpu

IMAGE = (1, 4, 4)


def make(latent_dim1=2, latent_dim2=3, vamp=True, seed=0):
    """For binary images of 4 x 4 pixels, as in the paper but for its sizes."""
    torch.manual_seed(seed)

    def features(shape):
        return GatedMLP(shape, 6, hidden=(), gated_output=True)

    posterior2 = DiagonalNormal(features(IMAGE), latent_dim2)
    return HierarchicalVAE(
        prior=VampPrior(posterior2, IMAGE, pseudo_inputs=5) if vamp else StandardNormal(latent_dim2),
        latent=DiagonalNormal(features(latent_dim2), latent_dim1),
        likelihood=Bernoulli(
            Joined(GatedMLP(12, IMAGE, (8,)), features(latent_dim1), features(latent_dim2))
        ),
        posterior2=posterior2,
        posterior1=DiagonalNormal(
            Joined(features(12), features(IMAGE), features(latent_dim2)), latent_dim1
        ),
    )


class Linear:
    """z2 ~ N(0, 1), z1 ~ N(a z2 + b, s^2), x ~ N(W (z1, z2) + mu, t^2 I) over three dimensions."""

    def __init__(self, spread=1.0):
        def affine(inputs):  # a network that hands on what it is given
            network = MLP(inputs, inputs, hidden=())
            network.layers[0].weight.copy_(torch.eye(inputs))
            network.layers[0].bias.zero_()
            return network

        def set_to(normal, weight, bias, variance):
            normal.loc.weight.copy_(weight)
            normal.loc.bias.copy_(bias)
            normal.scale.weight.zero_()
            normal.scale.bias.copy_((variance.sqrt() - 1e-4).expm1().log())

        with torch.no_grad():
            torch.manual_seed(0)
            self.vae = vae = HierarchicalVAE(
                StandardNormal(1),
                DiagonalNormal(affine(1), 1),
                Gaussian(Joined(MLP(2, 3, hidden=()), None, None), scale=0.6),
                DiagonalNormal(affine(3), 1),
                DiagonalNormal(Joined(affine(4), None, None), 1),
            ).double()
            one = torch.ones(1, 1).double()
            a, b, s = 1.5 * one, torch.tensor([0.4]).double(), torch.tensor(0.5).double()
            set_to(vae.latent, a, b, s**2)
            w, self.mu = (p.detach() for p in vae.likelihood.network.network.layers[0].parameters())
            noise = (2 * vae.likelihood.log_scale).exp() * torch.eye(3)
            # The joint distribution of u = (z1, z2), and what x says of it.
            mean = torch.tensor([b.item(), 0.0]).double()
            covariance = torch.cat([torch.cat([a**2 + s**2, a], 1), torch.cat([a, one], 1)])
            self.evidence = MultivariateNormal(w @ mean + self.mu, w @ covariance @ w.T + noise)
            gain = covariance @ w.T @ torch.linalg.inv(w @ covariance @ w.T + noise)
            posterior = covariance - gain @ w @ covariance
            shift = mean - gain @ (w @ mean + self.mu)  # E[u | x] = gain x + shift
            set_to(vae.posterior2, gain[1:], shift[1:], posterior[1:, 1] * spread)
            slope = posterior[0, 1] / posterior[1, 1]  # E[z1 | x, z2] = ... + slope z2
            weight = torch.cat([gain[:1] - slope * gain[1:], slope.view(1, 1)], 1)
            rest = posterior[0, 0] - posterior[0, 1] ** 2 / posterior[1, 1]
            set_to(vae.posterior1, weight, shift[:1] - slope * shift[1:], rest[None] * spread)

    def log_weights(self, x, num_samples):
        with torch.no_grad(), pyro.plate("particles", num_samples, dim=-2):
            guide = poutine.trace(self.vae.guide).get_trace(x)
            model = poutine.trace(poutine.replay(self.vae.model, trace=guide)).get_trace(x)
        log_q, log_p = trace_log_probs(guide), trace_log_probs(model)
        assert log_p["z2"].shape == log_p["z1"].shape == log_p["x"].shape == (num_samples, len(x))
        return sum(log_p.values()) - sum(log_q.values())


def test_with_the_exact_posterior_every_draw_gives_the_evidence():
    linear, x = Linear(), torch.randn(6, 3).double()
    exact = linear.evidence.log_prob(x)
    torch.testing.assert_close(linear.log_weights(x, 20), exact.expand(20, 6))
    loss = ELBO().differentiable_loss(linear.vae.model, linear.vae.guide, x)
    torch.testing.assert_close(loss, -exact.sum())


def test_with_a_guide_that_is_too_wide_the_elbo_falls_short_by_its_kl():
    spread, x = 2.0, torch.randn(6, 3).double()
    linear = Linear(spread)
    weights = linear.log_weights(x, 4000)
    # Of either level: the normal with `spread` times the variance against the one itself. The divergence
    # of z1 given z2 is the same wherever z2 lies, since their means agree there.
    kl = 2 * 0.5 * (spread - 1 - math.log(spread))
    error = weights.std(0) / math.sqrt(len(weights))
    assert ((weights.mean(0) + kl - linear.evidence.log_prob(x)).abs() < 4 * error).all()
    result = marginal_likelihood(linear.vae, x, num_samples=4000)
    assert ((result.log_px - linear.evidence.log_prob(x)).abs() < 4 * result.std_error).all()


@pytest.mark.parametrize("vamp", [False, True])
def test_the_marginal_likelihood_is_the_integral_over_both_levels(vamp, binary_images):
    vae, x = make(1, 1, vamp).double(), binary_images[:4].double()
    with torch.no_grad():  # a guide wide enough for the weights to have a variance
        vae.posterior1.scale.bias.add_(1)
        vae.posterior2.scale.bias.add_(0.7)
        vae.posterior1.loc.weight.mul_(0.3)
        vae.latent.loc.weight.mul_(0.3)
    side = torch.linspace(-9, 9, 361).double()
    z1, z2 = torch.cartesian_prod(side, side)[..., None].unbind(1)
    with torch.no_grad():
        log_prior = vae.prior().log_prob(z2) + vae.latent(z2).log_prob(z1)
        pixels = vae.likelihood(z1, z2)
        exact = torch.stack([(log_prior + pixels.log_prob(datum)).logsumexp(0) for datum in x])
    exact += 2 * math.log(18 / 360)
    result = marginal_likelihood(vae, x, num_samples=4000)
    assert ((result.log_px - exact).abs() < 4 * result.std_error).all()
    assert result.std_error.max() < 0.05


@pytest.mark.parametrize("vamp", [False, True])
def test_loss_and_gradients_are_those_of_the_bound_written_by_hand(vamp, binary_images):
    vae, x = make(vamp=vamp).double(), binary_images.double()

    def normal(value, loc, scale):
        density = -0.5 * ((value - loc) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)
        return density.sum(-1)

    def heads(posterior, *context):
        h = posterior.network(*context)
        return posterior.loc(h), torch.nn.functional.softplus(posterior.scale(h)) + 1e-4

    q2 = heads(vae.posterior2, x)
    torch.manual_seed(5)
    noise2, noise1 = (torch.randn(24, size, dtype=torch.double) for size in (3, 2))
    z2 = q2[0] + q2[1] * noise2
    q1 = heads(vae.posterior1, x, z2)
    z1 = q1[0] + q1[1] * noise1
    logits = vae.likelihood.network(z1, z2)
    log_p = (x * logits - torch.nn.functional.softplus(logits)).flatten(1).sum(1)
    log_p = log_p + normal(z1, *heads(vae.latent, z2))
    if vamp:
        pseudo = heads(vae.posterior2, vae.prior.pseudo_inputs)
        log_p = log_p + normal(z2[:, None], *pseudo).logsumexp(1) - math.log(5)
    else:
        log_p = log_p + normal(z2, torch.zeros(3), torch.ones(3))
    by_hand = -(log_p - normal(z2, *q2) - normal(z1, *q1)).sum()

    torch.manual_seed(5)
    loss = ELBO().differentiable_loss(vae.model, vae.guide, x)
    torch.testing.assert_close(loss, by_hand)
    learned = list(vae.parameters())
    for found, expected in zip(
        torch.autograd.grad(loss, learned), torch.autograd.grad(by_hand, learned), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("vamp", [False, True])
def test_the_diagram_is_the_papers(vamp, binary_images):
    vae = make(vamp=vamp)
    diagram = plate_diagram(vae, binary_images)
    assert diagram.plates == {"data": 24}
    assert diagram.members("data") == ("z2", "z1", "x")
    assert diagram.generative_edges == {("z2", "z1"), ("z1", "x"), ("z2", "x")}
    assert diagram.inference_edges == {("x", "z2"), ("x", "z1"), ("z2", "z1")}


def moved(vae, before):
    return {name for name, value in vae.named_parameters() if not torch.equal(value, before[name])}


def test_every_parameter_trains_by_fit_and_the_bound_rises(binary_images):
    vae = make()
    before = {name: value.clone() for name, value in vae.named_parameters()}
    history = fit(vae, binary_images, epochs=40, batch_size=12, progress=False)
    assert moved(vae, before) == set(before)
    assert history.rows[-1]["elbo"] > history.rows[0]["elbo"] + 0.3


def test_it_trains_in_pyros_own_svi(binary_images, param_store):
    first, second = make(seed=0), make(seed=1)
    for vae in (first, second):
        before = {name: value.clone() for name, value in vae.named_parameters()}
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        losses = [svi.step(binary_images) for _ in range(30)]
        assert moved(vae, before) == set(before)
        assert sum(losses[-5:]) < sum(losses[:5])


# Looking at it


def test_looking_tools_take_either_level_by_its_name(binary_images):
    vae, x = make(2, 2), binary_images
    assert structure(vae, x).latents == ("z2", "z1")
    assert code_site(vae) == "z1"
    codes = latent_codes(vae, x)
    z2 = vae.posterior2(x).mean
    torch.testing.assert_close(codes["z2"], z2.detach())
    torch.testing.assert_close(codes["z1"], vae.posterior1(x, z2).mean.detach())
    torch.testing.assert_close(latent_means(vae, x, "z2"), codes["z2"])
    with pytest.raises(InputError, match="has no continuous latent 'z'; there are: 'z2', 'z1'"):
        latent_means(vae, x, "z")
    torch.testing.assert_close(reconstruct(vae, x), vae.likelihood.mean(codes["z1"], codes["z2"]).detach())
    # Where z2 moves alone, z1 follows it.
    z1 = vae.latent(codes["z2"]).mean
    torch.testing.assert_close(
        decode(vae, codes["z2"], site="z2"), vae.likelihood.mean(z1, codes["z2"]).detach()
    )
    assert sample_images(vae, 5).shape == (5, *IMAGE)
    for site in ("z1", "z2"):
        assert interpolate(vae, x[:1], x[1:2], 3, site).shape == (1, 3, *IMAGE)
        assert manifold(vae, 3, site=site).shape == (3, 3, *IMAGE)
        assert traverse(vae, x[0], levels=(0.1, 0.9), site=site).shape == (2, 2, *IMAGE)
        assert prior_quantiles(vae, (0.1, 0.9), site).shape == (2, 2)
        points = torch.linspace(-8, 8, 321)
        mass = prior_density(vae, points, site).sum(0) * 0.05
        torch.testing.assert_close(mass, torch.ones(2).to(mass), atol=0.02, rtol=0)
