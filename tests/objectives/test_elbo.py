"""The bound and its gradient against the same written by hand, on the same noise."""

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

from pyrovae.objectives import ELBO, reweight
from pyrovae.programs import Pair
from pyrovae.programs.densities import trace_log_probs

SEED = 5


@pytest.fixture
def vae(make_vae):
    return make_vae().double()


@pytest.fixture
def x(binary_images):
    return binary_images.double()


def by_hand(vae, x):
    """Both terms of the ELBO, summed over the batch, from one draw z = loc + scale * noise."""
    torch.manual_seed(SEED)
    q = vae.posterior(x).base_dist
    z = q.loc + q.scale * torch.randn(q.loc.shape, dtype=x.dtype)
    log_q = -0.5 * ((z - q.loc) / q.scale).square() - q.scale.log()
    log_p = -0.5 * z.square()  # the normalising constants cancel
    logits = vae.likelihood.network(z)
    log_px = x * logits.sigmoid().log() + (1 - x) * (-logits).sigmoid().log()
    return log_px.sum(), (log_q - log_p).sum()


def weighted_loss(objective, vae, x, beta):
    torch.manual_seed(SEED)
    weights = {"z": beta}
    return objective.differentiable_loss(reweight(vae.model, weights), reweight(vae.guide, weights), x)


def gradients(loss, module):
    return torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("objective", [Trace_ELBO, ELBO])
def test_beta_weighs_the_divergence_and_its_gradient_and_nothing_else(vae, x, beta, objective):
    reconstruction, kl = by_hand(vae, x)
    loss = weighted_loss(objective(), vae, x, beta)
    torch.testing.assert_close(loss, beta * kl - reconstruction)
    expected = gradients(beta * kl - reconstruction, vae)
    for one, other in zip(gradients(loss, vae), expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_the_terms_are_reported_without_their_weight(vae, x, beta):
    reconstruction, kl = by_hand(vae, x)
    objective = ELBO()
    torch.manual_seed(SEED)
    weights = {"z": beta}
    bound = objective.evaluate(Pair(reweight(vae.model, weights), reweight(vae.guide, weights)), x)
    torch.testing.assert_close(bound.terms["reconstruction"], reconstruction.detach())
    torch.testing.assert_close(bound.terms["x"], reconstruction.detach())
    torch.testing.assert_close(bound.terms["kl"], kl.detach())
    assert not bound.terms["kl"].requires_grad
    torch.testing.assert_close(bound.loss, beta * kl - reconstruction)


@pytest.mark.parametrize("vectorize", [False, True])
def test_the_terms_add_up_to_the_bound_over_particles(vae, x, vectorize):
    objective = ELBO(num_particles=3, vectorize_particles=vectorize)
    for _ in range(2):  # the second evaluation starts from nothing
        bound = objective.evaluate(vae, x)
        terms = bound.terms
        torch.testing.assert_close(terms["reconstruction"] - terms["kl"], -bound.loss.detach())


def test_the_terms_do_not_feel_the_scale_of_a_subsampled_plate(vae, x):
    torch.manual_seed(SEED)
    plain = ELBO().evaluate(vae, x)
    torch.manual_seed(SEED)
    scaled = ELBO().evaluate(Pair(poutine.scale(vae.model, 10.0), poutine.scale(vae.guide, 10.0)), x)
    torch.testing.assert_close(scaled.terms, plain.terms)
    loss = scaled.loss.item()
    unscaled = (plain.terms["reconstruction"] - plain.terms["kl"]).item()
    assert -loss == pytest.approx(10 * unscaled)


def test_weights_of_one_leave_the_program_itself(vae):
    assert reweight(vae.model, {"z": 1.0, "x": 1}) == vae.model


def test_a_weight_goes_to_the_site_it_names(vae, x):
    torch.manual_seed(SEED)
    loss = Trace_ELBO().differentiable_loss(reweight(vae.model, {"x": 3.0}), vae.guide, x)
    reconstruction, kl = by_hand(vae, x)
    torch.testing.assert_close(loss, kl - 3 * reconstruction)


def test_reported_log_densities_have_the_mask_and_no_scale():
    def program():
        mask = torch.tensor([True, True, False, True])
        with pyro.plate("data", 4), poutine.scale(scale=7.0), poutine.mask(mask=mask):
            pyro.sample("x", pyro.distributions.Normal(0.0, 1.0), obs=torch.tensor([0.0, 1, 2, 3]))

    trace = poutine.trace(reweight(program, {"x": 3.0})).get_trace()
    found = trace_log_probs(trace)
    x = torch.tensor([0.0, 1, 2, 3])
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(x) * torch.tensor([1.0, 1, 0, 1])
    assert list(found) == ["x"]
    torch.testing.assert_close(found["x"], expected)
