"""Data of one number each, `(N,)`, as in a regression or in a mixture of normals."""

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import nn

from pyrovae import Pair, fit, plate_diagram, plots
from pyrovae.errors import InputError
from pyrovae.evaluation import impute, marginal_likelihood
from pyrovae.generation import latent_means, reconstruct, samples
from pyrovae.recipes import About, vae

NOISE, SPREAD = 0.5, 2.0


def test_the_evidence_of_a_regression_is_exact():
    def model(y, covariates):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(covariates @ w, NOISE), obs=y)

    c = torch.randn(40, 3)
    y = c @ torch.tensor([1.0, -1.0, 0.5]) + NOISE * torch.randn(40)
    pair, given = Pair(model, AutoMultivariateNormal(model)), {"covariates": c}
    history = fit(pair, y, given=given, epochs=60, batch_size=20, learning_rate=0.05, progress=False)
    assert history["elbo"][-1] > history["elbo"][0]
    found = marginal_likelihood(pair, y, given=given, joint=True, num_samples=4000)
    exact = dist.MultivariateNormal(torch.zeros(40), c @ c.T + NOISE**2 * torch.eye(40)).log_prob(y)
    assert found.mean == pytest.approx(exact.item(), abs=5 * found.mean_std_error)
    assert samples(pair, 40, given=given).shape == (40,)
    assert "p: w -> y" in str(plate_diagram(pair, y, given=given))


class Shift(nn.Module):
    """z ~ N(0, SPREAD^2), x ~ N(z, NOISE^2), whose exact posterior is the guide."""

    def model(self, x, observed=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), SPREAD))
            likelihood = dist.Normal(z, NOISE)
            pyro.sample("x", likelihood if observed is None else likelihood.mask(observed), obs=x)

    def guide(self, x, observed=None):
        seen = torch.ones_like(x) if observed is None else observed.to(x)
        precision = 1 / SPREAD**2 + seen / NOISE**2
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(seen * x / NOISE**2 / precision, precision.rsqrt()))


def test_local_latents_are_scored_generated_and_imputed():
    x, pair = 3 * torch.randn(30), Shift()
    total = SPREAD**2 + NOISE**2
    exact = dist.Normal(0.0, total**0.5).log_prob(x)
    assert torch.allclose(marginal_likelihood(pair, x, num_samples=5).log_px.float(), exact, atol=1e-5)
    means = SPREAD**2 / total * x
    assert torch.allclose(latent_means(pair, x), means, atol=1e-5)
    assert torch.allclose(reconstruct(pair, x), means, atol=1e-5)
    observed = torch.arange(30) % 3 > 0
    found = impute(pair, x, observed, num_samples=2000)
    assert found.x.shape == (30,)
    assert torch.equal(found.x[observed], x[observed])
    assert (found.x[~observed].abs() < 5 * total**0.5 / 2000**0.5).all()
    assert "datum 0" in found._repr_html_()


def test_figures_take_them():
    x = torch.randn(30)
    for figure in (
        plots.samples(Shift(), 30, x=x),
        plots.reconstructions(Shift(), x),
        plots.traversal(Shift(), x),
        plots.histograms(Shift(), x, torch.arange(30) % 2),
        plots.aggregated_posterior(Shift(), x),
    ):
        assert figure.axes
        plt.close(figure)


def test_recipes_want_vectors():
    with pytest.raises(InputError, match=r"give x\[:, None\], of shape \(N, 1\)"):
        vae(About.of(torch.rand(5)))
