"""Where the model masks a latent, the latent is not there, and the guide's density of it does not count."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from pyrovae import Pair, fit
from pyrovae.errors import InputError
from pyrovae.evaluation import inference_gaps, marginal_likelihood
from pyrovae.objectives import ELBO, IWAE

KNOWN = torch.tensor([True, False, True, False])
X = torch.tensor([[0.5], [0.7], [1.5], [2.0]])


def model(x, m):
    """y ~ U(0, 4), known where m is true; x ~ N(y, 1)."""
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Uniform(0.0, 4.0), obs=x[:, 0], obs_mask=m)
        pyro.sample("x", dist.Normal(y, 1.0), obs=x[:, 0])


def guide(x, m):
    with pyro.plate("data", len(x)):
        pyro.sample("y_unobserved", dist.Uniform(torch.zeros(len(x)), 4.0))


def masked_guide(x, m):
    with poutine.mask(mask=~m):
        guide(x, m)


def exact():
    """log p(x, y) where y is known, else log p(x)."""
    at = dist.Normal(X[:, 0], 1.0)
    unknown = (at.cdf(torch.tensor(4.0)) - at.cdf(torch.tensor(0.0))).log()
    return torch.where(KNOWN, at.log_prob(X[:, 0]), unknown) - torch.tensor(4.0).log()


@pytest.mark.parametrize("of", [guide, masked_guide])
def test_the_evidence_of_data_known_in_part_is_exact(of):
    found = marginal_likelihood(Pair(model, of), X, given={"m": KNOWN}, num_samples=4000)
    assert torch.allclose(found.log_px.float(), exact(), atol=0.05)  # 5 standard errors of 4,000 draws
    assert torch.allclose(found.log_px.float()[KNOWN], exact()[KNOWN], atol=1e-5)


@pytest.mark.parametrize("objective", [ELBO(), ELBO(num_particles=3), IWAE(3)])
def test_bounds_do_not_depend_on_whether_the_guide_has_the_mask_too(objective):
    losses = []
    for of in (guide, masked_guide):
        torch.manual_seed(0)
        losses.append(objective.evaluate(Pair(model, of), X, KNOWN).loss)
    assert losses[0] == pytest.approx(losses[1].item(), rel=1e-6)


def test_data_that_are_known_have_no_gaps():
    for of in (guide, masked_guide):
        found = inference_gaps(Pair(model, of), X, given={"m": KNOWN}, steps=20, num_samples=50)
        for gap in (found.approximation, found.amortisation):
            assert torch.allclose(gap[KNOWN], torch.zeros(2, dtype=gap.dtype), atol=1e-5)


def regression(y, c, m):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(c @ w, 0.5), obs=y, obs_mask=m)


def test_an_autoguide_of_a_regression_with_gaps_has_the_posterior_of_what_is_known():
    c, m = torch.randn(8, 2), torch.arange(8) % 2 == 0
    y = c @ torch.tensor([1.0, -1.0]) + 0.5 * torch.randn(8)
    auto = AutoNormal(regression)
    pair, given = Pair(regression, auto), {"c": c, "m": m}
    history = fit(pair, y, given=given, epochs=400, batch_size=8, learning_rate=0.03, progress=False)
    evidence = dist.MultivariateNormal(torch.zeros(4), c[m] @ c[m].T + 0.25 * torch.eye(4)).log_prob(y[m])
    assert sum(history["elbo"][-50:]) / 50 * 8 < evidence + 0.5  # without the rule it grows without limit
    precision = torch.eye(2) + c[m].T @ c[m] / 0.25
    mean = torch.linalg.solve(precision, c[m].T @ y[m] / 0.25)
    assert torch.allclose(auto.locs.w, mean, atol=0.15)


def refused(message, of_model, of_guide):
    with pytest.raises(InputError, match=message):
        marginal_likelihood(Pair(of_model, of_guide), X, given={"m": KNOWN}, num_samples=10)


def test_a_mask_that_leaves_no_weight_is_refused():
    def used(x, m):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=m):
                z = pyro.sample("y_unobserved", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def free(x, m):
        with pyro.plate("data", len(x)):
            z = pyro.sample("y_unobserved", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def of_elements(x, m):
        with pyro.plate("data", len(x)):
            mask = m[:, None] & torch.tensor([True, False])
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).mask(mask).to_event(1))
            pyro.sample("x", dist.Normal(0 * z[:, 0], 1.0), obs=x[:, 0])

    def pairs(x, m):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.expand(-1, 2), 1.0).to_event(1))

    refused("the model masks the latent 'y_unobserved', and the density of 'x' depends", used, guide)
    refused("the guide masks the latent 'y_unobserved' where the model does not", free, masked_guide)
    refused("masks single elements of the latent 'z'", of_elements, pairs)
    auto = AutoMultivariateNormal(model)
    with pytest.raises(InputError, match="sets it from an auxiliary latent"):
        marginal_likelihood(Pair(model, auto), X, given={"m": KNOWN}, joint=True, num_samples=10)
