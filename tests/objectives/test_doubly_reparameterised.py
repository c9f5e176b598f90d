"""The doubly reparameterised gradient: the same mean, and less noise."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import SEED, K, draw_by_hand, gradients, log_weights_by_hand, value_and_gradients
from small_programs import PAIRS, assert_same_mean, points

from pyrovae.errors import InputError
from pyrovae.evaluation.gradients import gradient_variance
from pyrovae.objectives import IWAE
from pyrovae.programs.pair import Pair

pytestmark = pytest.mark.cpu


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_both_gradients_of_the_bound_have_the_same_mean(pair):
    x = points(400)
    plain, double = (
        gradient_variance(IWAE(3, doubly), Pair(*pair), x, repeats=120, seed=doubly)
        for doubly in (False, True)
    )
    assert_same_mean(double, plain)
    # Small enough errors to tell v^2 from v.
    assert max(error.max() for error in double.std_error.values()) < 0.01


def test_the_model_gets_its_plain_gradient_and_the_guide_the_squared_shares(vae, x):
    loss, found = value_and_gradients(IWAE(K, doubly_reparameterised=True), vae, x)
    plain_loss, plain = value_and_gradients(IWAE(K), vae, x)
    torch.testing.assert_close(loss, plain_loss)
    z, q = draw_by_hand(vae, x)
    fixed = dist.Normal(q.loc.detach(), q.scale.detach())
    log_weights = log_weights_by_hand(vae, x, z, fixed)
    (path,) = torch.autograd.grad(log_weights.sum(), z, retain_graph=True)
    shares = log_weights.detach().softmax(0)
    by_hand = gradients(-(shares.square()[..., None] * path * z).sum(), vae)
    for name, value in found.items():
        expected = by_hand[name] if name.startswith("posterior") else plain[name]
        torch.testing.assert_close(value, expected)


def test_it_is_less_noisy_for_the_guide_and_the_more_so_the_more_samples_there_are(make_ppca, draw):
    ppca = make_ppca(2, 5, spread=1.5)  # wider than the posterior, so that the weights are bounded
    x = draw(ppca, 6)
    gained = []
    for num_samples in (4, 64):
        plain, double = (gradient_variance(IWAE(num_samples, d), ppca, x) for d in (False, True))
        assert_same_mean(double, plain)
        ours, theirs = double.of("posterior"), plain.of("posterior")
        assert ours.signal_to_noise > theirs.signal_to_noise
        gained.append(theirs.total_variance / ours.total_variance)
        by_rounding = pytest.approx(plain.of("likelihood").total_variance, rel=1e-9)
        assert double.of("likelihood").total_variance == by_rounding
    assert gained[1] > 2 * gained[0] > 4


def test_with_the_exact_posterior_as_guide_its_gradient_is_nothing_but_rounding(make_ppca, draw):
    ppca = make_ppca(3, 7, spread=1.0)
    x = draw(ppca, 6)
    for doubly, largest in ((True, 1e-9), (False, math.inf)):
        _, found = value_and_gradients(IWAE(K, doubly), ppca, x)
        guide = torch.cat([v.flatten() for name, v in found.items() if name.startswith("posterior")])
        assert guide.abs().max() < largest
    assert guide.abs().max() > 0.1  # the plain one is noise


def test_without_gradients_there_is_only_the_value(vae, x):
    torch.manual_seed(SEED)
    plain = IWAE(K).loss(vae.model, vae.guide, x)
    torch.manual_seed(SEED)
    assert IWAE(K, doubly_reparameterised=True).loss(vae.model, vae.guide, x) == pytest.approx(plain)


def test_classes_between_latents_need_the_plain_gradient(make_m1m2, x, classes):
    m1m2 = make_m1m2()
    with pytest.raises(InputError, match=r"\['y'\] is enumerated after some of the latents \['z1', 'z2'\]"):
        IWAE(K, doubly_reparameterised=True).differentiable_loss(m1m2.model, m1m2.guide, x)
    IWAE(K, doubly_reparameterised=True).differentiable_loss(m1m2.model, m1m2.guide, x, classes[:6])
    _, found = value_and_gradients(IWAE(K), m1m2, x)
    assert all(value.any() for name, value in found.items() if name.startswith("vae.posterior"))


def test_a_flow_without_an_inverse_needs_the_plain_gradient(x):
    flow = dist.transforms.Planar(2).double()

    def guide(x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[:, 0, 0, :2])

    assert IWAE(K).differentiable_loss(model, guide, x).isfinite()
    with pytest.raises(InputError, match=r"score the draws of the first.*a flow without an inverse"):
        IWAE(K, doubly_reparameterised=True).differentiable_loss(model, guide, x)
