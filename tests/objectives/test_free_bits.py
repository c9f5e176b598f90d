"""The ELBO with a floor under the divergence, against the same written by hand."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import SEED, divergences, evaluated, gradients, noise, value_and_gradients
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from small_programs import bottom_up, hierarchy, parameter, points, top_down, vamp, vamp_guide
from torch.distributions import kl_divergence

from pyrovae.errors import InputError
from pyrovae.objectives import ELBO, FreeBits, reweight
from pyrovae.programs import Pair


def test_without_a_floor_it_is_the_elbo_with_its_divergence_in_closed_form(vae, x):
    objective = FreeBits(0.0)
    loss, found = value_and_gradients(objective, vae, x)
    torch.manual_seed(SEED)
    mean_field = TraceMeanField_ELBO().differentiable_loss(vae.model, vae.guide, x)
    torch.testing.assert_close(loss, mean_field)
    torch.testing.assert_close(found, gradients(mean_field, vae))
    divergence = kl_divergence(vae.posterior(x), vae.prior().expand((6,))).sum().detach()
    terms = evaluated(objective, vae, x).terms
    torch.testing.assert_close(terms["kl"], divergence)
    torch.testing.assert_close(terms["reconstruction"] - terms["kl"], -loss.detach())


def test_each_site_or_dimension_enters_with_its_divergence_or_the_floor(vae, x):
    with torch.no_grad():
        vae.posterior.loc.bias[0] = 2.0
    low, high = divergences(vae, x).detach().sort().values
    assert high > 2 * low > 0
    for nats in (0.5 * low, (low + high) / 2, high + 0.5, low + high + 0.5):
        for per in ("site", "dimension"):
            torch.manual_seed(SEED)
            plain = FreeBits(0.0).differentiable_loss(vae.model, vae.guide, x)
            parts = divergences(vae, x)
            reconstruction, parts = plain - 6 * parts.sum(), parts.sum() if per == "site" else parts
            expected = reconstruction + 6 * torch.where(parts > nats, parts, nats).sum()
            objective = FreeBits(nats.item(), per)
            loss, found = value_and_gradients(objective, vae, x)
            torch.testing.assert_close(loss, expected)
            torch.testing.assert_close(found, gradients(expected, vae))
            terms = evaluated(objective, vae, x).terms
            torch.testing.assert_close(terms["kl"], 6 * divergences(vae, x).sum().detach())


def test_below_the_floor_a_divergence_has_no_gradient(vae, x):
    _, found = value_and_gradients(FreeBits(100.0), vae, x)
    weights = {"z": 0.0}
    torch.manual_seed(SEED)
    loss = ELBO().differentiable_loss(reweight(vae.model, weights), reweight(vae.guide, weights), x)
    torch.testing.assert_close(found, gradients(loss, vae))


def test_beta_multiplies_the_floored_divergence(vae, x):
    nats, weights = 0.5 * divergences(vae, x).sum().item(), {"z": 3.0}
    loss, _ = value_and_gradients(FreeBits(nats), vae, x)
    torch.manual_seed(SEED)
    weighted = FreeBits(nats).differentiable_loss(
        reweight(vae.model, weights), reweight(vae.guide, weights), x
    )
    torch.testing.assert_close(weighted - loss, 2 * 6 * divergences(vae, x).sum())
    with pytest.raises(InputError, match=r"'z' has weight 1.0 in the model and 3.0 in the guide"):
        FreeBits(nats).differentiable_loss(vae.model, reweight(vae.guide, weights), x)


def test_where_there_is_no_closed_form_the_draw_stands_for_it(param_store):
    x = points(3)
    losses = []
    for objective in (FreeBits(0.0), Trace_ELBO()):
        torch.manual_seed(SEED)
        losses.append(objective.differentiable_loss(vamp, vamp_guide, x))
    torch.testing.assert_close(*losses)


def test_classes_are_summed_out_of_the_divergences(make_m2, x):
    m2 = make_m2()
    objective = FreeBits(0.0)
    loss, found = value_and_gradients(objective, m2, x)
    eps, q_y = noise(3, len(x), 2), m2.classifier(x)
    by_hand = kl_divergence(q_y, m2.class_prior()).sum()
    torch.manual_seed(SEED)
    for label in range(3):
        y, probability = torch.full((len(x),), label), q_y.probs[:, label]
        q = m2.posterior(x, y)
        z = q.base_dist.loc + q.base_dist.scale * eps[label]
        by_hand = by_hand + (probability * kl_divergence(q, m2.prior())).sum()
        by_hand = by_hand - (probability * m2.likelihood(z, y).log_prob(x)).sum()
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(found, gradients(by_hand, m2))
    loss, _ = value_and_gradients(FreeBits(0.0, "dimension"), m2, x)
    torch.testing.assert_close(loss, by_hand)


@pytest.mark.parametrize("guide", [top_down, bottom_up])
@pytest.mark.parametrize("per", ["site", "dimension"])
def test_the_closed_form_is_used_only_for_what_it_is_the_divergence_of(guide, per, param_store):
    """In the guide that draws z1 before z2, p(z1 | z2) varies with z1 through z2."""
    x = points(5000)
    with torch.no_grad():
        mine, elbo = FreeBits(0.0, per), ELBO()
        losses = [
            torch.stack([o.differentiable_loss(hierarchy, guide, x) for _ in range(10)]) / len(x)
            for o in (mine, elbo)
        ]
    error = math.hypot(*(part.std().item() for part in losses)) / 10**0.5
    assert error < 0.02
    assert abs(losses[0].mean().item() - losses[1].mean().item()) < 4 * error


def test_dimensions_that_are_not_independent_are_not_told_apart(make_ppca, draw):
    ppca = make_ppca()
    x = draw(ppca, 4)
    with pytest.raises(InputError, match="'z' has a MultivariateNormal, which is not independent"):
        FreeBits(0.1, "dimension").differentiable_loss(ppca.model, ppca.guide, x)
    assert FreeBits(0.1).differentiable_loss(ppca.model, ppca.guide, x).isfinite()


class Sharpened(dist.Normal):
    """A density of a user's own: that of the normal distribution, twice in the exponent, not normalised."""

    def log_prob(self, value):
        return 2 * super().log_prob(value)


def masked(fn, rows):
    return fn.mask(torch.arange(len(points(3))) < rows)


FAMILIES = {
    "a Delta with its log density": (
        lambda: dist.Normal(torch.zeros(6).double(), 1.0),
        lambda q: dist.Delta(q.rsample(), log_density=q.log_prob(q.mean)),
    ),
    "other masks in the two programs": (
        lambda: masked(dist.Normal(torch.zeros(6).double(), 1.0), 4),
        lambda q: masked(q, 2),
    ),
    "a density of the user's own in the model": (
        lambda: Sharpened(torch.zeros(6).double(), 1.0),
        lambda q: q,
    ),
    "a density of the user's own in the guide": (
        lambda: dist.Normal(torch.zeros(6).double(), 1.0),
        lambda q: Sharpened(q.loc, q.scale),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_closed_form_is_used_only_where_it_holds_all_of_the_density(family, param_store):
    prior, posterior = FAMILIES[family]

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(parameter("slope", 1.2) * z, 0.8), obs=x[:, 0])

    def guide(x):
        w = parameter("w", 0.4, 0.1, -0.5)
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(dist.Normal(w[0] * x[:, 0] + w[1], w[2].exp())))

    terms = evaluated(FreeBits(0.0), Pair(model, guide), points(3)).terms
    torch.manual_seed(SEED)
    loss = Trace_ELBO().loss(model, guide, points(3))
    assert (terms["kl"] - terms["reconstruction"]).item() == pytest.approx(loss)


@pytest.mark.parametrize(
    ("settings", "message"),
    [((-0.1,), "nats is -0.1"), ((math.nan,), "nats is nan"), ((0.1, "pixel"), "per is 'pixel'")],
)
def test_floors_that_are_none_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        FreeBits(*settings)
