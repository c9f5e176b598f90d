"""A weight for each datum multiplies that datum's bound, as if the datum were there that many times."""

import pyro.distributions as dist
import pytest
import torch
from by_hand import SEED, K, draw_by_hand, gradients, log_weights_by_hand
from enumerated_programs import PAIRS, data, forward
from pyro import poutine

from pyrovae.errors import InputError
from pyrovae.objectives import ELBO, IWAE, FreeBits, ScoreFunctionELBO
from pyrovae.objectives.weights import reweight_pair
from pyrovae.programs import Pair

W = torch.tensor([1.0, 0.2, 2.5, 0.3, 1.7, 4.0]).double()


def weighted(pair, weights=W):
    return Pair(poutine.scale(pair.model, scale=weights), poutine.scale(pair.guide, scale=weights))


def value_and_gradients(objective, pair, module, x):
    torch.manual_seed(SEED)
    bound = objective.evaluate(pair, x)
    return bound.loss, gradients(bound.loss, module), bound.terms


def test_the_weight_stands_outside_of_the_logarithm(vae, x):
    loss, found, terms = value_and_gradients(IWAE(K), weighted(vae), vae, x)
    bounds = log_weights_by_hand(vae, x, *draw_by_hand(vae, x)).exp().mean(0).log()
    by_hand = -(W * bounds).sum()
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(found, gradients(by_hand, vae))
    torch.testing.assert_close(terms, value_and_gradients(IWAE(K), vae, vae, x)[2])


def test_the_doubly_reparameterised_gradient_is_weighted_datum_by_datum(vae, x):
    loss, found, _ = value_and_gradients(IWAE(K, True), weighted(vae), vae, x)
    bounds = log_weights_by_hand(vae, x, *draw_by_hand(vae, x)).exp().mean(0).log()
    torch.testing.assert_close(loss, -(W * bounds).sum())
    z, q = draw_by_hand(vae, x)
    fixed = dist.Normal(q.loc.detach(), q.scale.detach())
    log_weights = log_weights_by_hand(vae, x, z, fixed)
    (path,) = torch.autograd.grad(log_weights.sum(), z, retain_graph=True)
    shares = log_weights.detach().softmax(0)
    by_hand = gradients(-(W[:, None] * shares.square()[..., None] * path * z).sum(), vae)
    _, plain, _ = value_and_gradients(IWAE(K), weighted(vae), vae, x)
    for name in found:
        expected = by_hand if name.startswith("posterior") else plain
        torch.testing.assert_close(found[name], expected[name])


def test_the_elbo_and_its_score_function_are_weighted(vae, x):
    loss, found, _ = value_and_gradients(ELBO(), weighted(vae), vae, x)
    z, q = draw_by_hand(vae, x, 1)
    by_hand = -(W * log_weights_by_hand(vae, x, z, q)[0]).sum()
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(found, gradients(by_hand, vae))
    loss, found, _ = value_and_gradients(ScoreFunctionELBO(), weighted(vae), vae, x)
    torch.testing.assert_close(loss, by_hand)
    z, q = draw_by_hand(vae, x, 1)
    bound = log_weights_by_hand(vae, x, z.detach(), q)[0]
    log_q = dist.Normal(q.loc, q.scale).log_prob(z[0].detach()).sum(-1)
    score = gradients(-(W * (bound + (1 + bound.detach()) * log_q)).sum(), vae)
    torch.testing.assert_close(found, score)


@pytest.mark.parametrize("per", ["site", "dimension"])
@pytest.mark.parametrize("nats", [0.0, 0.02, 0.1, 5.0])
def test_the_floor_is_under_the_weighted_mean(vae, x, per, nats):
    loss, found, terms = value_and_gradients(FreeBits(nats, per), weighted(vae), vae, x)
    z, q = draw_by_hand(vae, x, 1)
    kl = 0.5 * (q.loc.square() + q.scale.square() - 1) - q.scale.log()
    kl = kl if per == "dimension" else kl.sum(1, keepdim=True)
    reconstruction = vae.likelihood(z[0]).log_prob(x)
    means = (W[:, None] * kl).sum(0) / W.sum()
    by_hand = W.sum() * means.clamp(min=nats).sum() - (W * reconstruction).sum()
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(found, gradients(by_hand, vae))
    torch.testing.assert_close(terms["kl"], kl.sum().detach())


def test_weights_of_one_change_nothing(vae, x):
    for objective in (IWAE(K), IWAE(K, True), ELBO(), FreeBits(0.1), FreeBits(0.1, "dimension")):
        one = value_and_gradients(objective, weighted(vae, torch.ones(6).double()), vae, x)
        torch.testing.assert_close(one, value_and_gradients(objective, vae, vae, x))


def test_a_beta_of_zero_leaves_the_weighted_reconstruction(vae, x):
    pair = reweight_pair(weighted(vae), {"z": 0.0})
    loss, found, _ = value_and_gradients(FreeBits(0.1), pair, vae, x)
    z, _ = draw_by_hand(vae, x, 1)
    by_hand = -(W * vae.likelihood(z[0]).log_prob(x)).sum()
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(found, gradients(by_hand, vae))


def test_chains_are_weighted(param_store):
    x, w = data(6), W
    pair = weighted(Pair(*PAIRS["markov"]))
    torch.testing.assert_close(-IWAE(2).evaluate(pair, x).loss, (w * forward(x)).sum())
    each = torch.stack([ELBO().evaluate(Pair(*PAIRS["markov"]), x[i : i + 1]).loss for i in range(6)])
    torch.testing.assert_close(ELBO().evaluate(pair, x).loss, (w * each).sum())
    with pytest.raises(InputError, match=r"'k0' has no single floor.*without weights for single data"):
        FreeBits(0.1).evaluate(pair, x)
    with pytest.raises(
        InputError, match=r"weight for each datum.*depend on \['k0'.*sample it in the guide"
    ):
        ELBO().evaluate(weighted(Pair(*PAIRS["markov in the model"])), x)


@pytest.mark.parametrize("objective", [ELBO(), IWAE(2)], ids=["elbo", "iwae"])
def test_weights_of_nested_classes_lie_along_the_datas_plate(objective, param_store):
    x = data(6)
    pair = Pair(*PAIRS["nested classes"])
    each = torch.stack([objective.evaluate(pair, x[i : i + 1]).loss for i in range(6)])
    torch.testing.assert_close(objective.evaluate(weighted(pair), x).loss, (W * each).sum())


def test_weights_within_a_datum_are_refused(vae, x):
    with pytest.raises(InputError, match=r"weights of shape \(2, 6\), which differ within a datum"):
        IWAE(K).evaluate(weighted(vae, torch.ones(2, 6).double()), x)
