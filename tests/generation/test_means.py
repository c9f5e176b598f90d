"""Latent means, reconstructions and class probabilities are the same at each call."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from generated_programs import Linear, cauchy, nothing_changes
from torch import nn
from torch.distributions import ExpTransform, SigmoidTransform, TransformedDistribution

from pyrovae import generation
from pyrovae.classifiers import LinearClassifier
from pyrovae.distributions.pushforward import Pushforward
from pyrovae.errors import InputError
from pyrovae.evaluation import class_posterior, class_probabilities
from pyrovae.flows import Householder, InverseAutoregressive, Planar
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import PCVAE, VAE
from pyrovae.networks import MLP
from pyrovae.posteriors import FlowPosterior
from pyrovae.priors import StandardNormal
from pyrovae.programs import Pair
from pyrovae.programs.distributions import MEAN_DRAWS, mean_of

SHAPE = (1, 4, 4)
FLOWS = {
    "planar": lambda: Planar(2, steps=2),
    "householder": lambda: Householder(2, steps=2),
    "iaf": lambda: InverseAutoregressive(2, steps=2),
}


def with_flow(flow, model=VAE, **parts):
    posterior = FlowPosterior(MLP(SHAPE, 6, hidden=(8,)), 2, flow)
    with torch.no_grad():
        posterior.context.weight.normal_(0, 0.5)
    return model(StandardNormal(2), Bernoulli(MLP(2, SHAPE, hidden=(8,))), posterior, **parts)


@pytest.mark.parametrize("name", FLOWS)
def test_the_mean_of_a_flow_is_an_average_of_seeded_draws(name, binary_images):
    vae, x = with_flow(FLOWS[name]()), binary_images[:4]
    with nothing_changes(vae):
        means = generation.latent_means(vae, x)
        assert torch.equal(means, generation.latent_means(vae, x))
        images = generation.reconstruct(vae, x)
        assert torch.equal(images, generation.reconstruct(vae, x))
        line = generation.interpolate(vae, x[:1], x[1:2])
        assert torch.equal(line, generation.interpolate(vae, x[:1], x[1:2]))
    torch.testing.assert_close(images, vae.likelihood.mean(means).detach())
    draws = generation.posterior_draws(vae, x.repeat(2000, 1, 1, 1)).unflatten(0, (2000, 4))
    error = draws.std(0) * math.sqrt(1 / MEAN_DRAWS + 1 / 2000)
    assert ((means - draws.mean(0)).abs() < 4.5 * error).all()


def test_class_probabilities_of_a_flow_are_the_same_at_each_call(binary_images):
    pcvae = with_flow(FLOWS["iaf"](), PCVAE, classifier=LinearClassifier(2, 3))
    with nothing_changes(pcvae):
        probabilities = class_probabilities(pcvae, binary_images)
        assert torch.equal(probabilities, class_probabilities(pcvae, binary_images))
        posterior = class_posterior(pcvae, binary_images, 3, num_samples=10)
        assert torch.equal(posterior, class_posterior(pcvae, binary_images, 3, num_samples=10))
    z = generation.latent_means(pcvae, binary_images)
    torch.testing.assert_close(probabilities, pcvae.classifier(z).probs.detach(), atol=0.2, rtol=0)


def test_class_probabilities_are_averaged_where_a_latent_has_no_mean():
    """q(z | x) is Cauchy(x, 1) and p(y = 1 | z) is 1 for z > 0, so q(y = 1 | x) = 1/2 + arctan(x) / pi."""

    class Model(nn.Module):
        def model(self, x, y=None):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
                if y is not None:
                    up = (z > 0).float()
                    pyro.sample("y", dist.Categorical(torch.cat([1 - up, up], -1)), obs=y)

        def guide(self, x, y=None):
            with pyro.plate("data", len(x)):
                pyro.sample("z", cauchy(x))

    x = torch.tensor([[-1.0], [0.0], [2.0]])
    with nothing_changes(Model()):
        found = class_probabilities(Model(), x, num_samples=1000)[:, 1]
    expected = 0.5 + x[:, 0].arctan() / math.pi
    assert ((found - expected).abs() < 4 * (expected * (1 - expected) / 1000).sqrt()).all()


WITHOUT_MEAN = {
    "Cauchy": lambda x: dist.Cauchy(x, 1.0),
    "HalfCauchy": lambda x: dist.HalfCauchy(x.exp()),
    "StudentT": lambda x: dist.StudentT(1.0, x, 1.0),
    "Pareto": lambda x: dist.Pareto(x.exp(), 1.0),
    "TransformedDistribution": lambda x: dist.TransformedDistribution(
        dist.Cauchy(x, 1.0), [dist.transforms.AffineTransform(1.0, 2.0)]
    ),
    "FoldedDistribution": lambda x: dist.FoldedDistribution(dist.StudentT(0.5, x, 1.0)),
}


@pytest.mark.parametrize("family", WITHOUT_MEAN)
def test_a_latent_without_a_mean_is_refused_and_its_image_is_one_draw(family):
    pair, x = Linear(lambda x: WITHOUT_MEAN[family](x).to_event(1)), torch.zeros(3, 2)
    message = (
        rf"'z' \({family}\) has no mean under the guide: draw it by posterior_draws\(pair, x, site='z'\)"
    )
    for function in (generation.latent_means, generation.latent_codes):
        with pytest.raises(InputError, match=message):
            function(pair, x)
    with (
        nothing_changes(pair),
        pytest.warns(UserWarning, match=rf"'z' \({family}\) .* has no mean, so one") as w,
    ):
        images = generation.reconstruct(pair, x)
    assert w[0].filename == __file__
    with pytest.warns(UserWarning, match="one draw with a fixed seed"):
        assert torch.equal(images, generation.reconstruct(pair, x))
    assert generation.posterior_draws(pair, x, site="z").isfinite().all()  # the remedy


@pytest.mark.parametrize("family", WITHOUT_MEAN)
def test_data_without_a_mean_are_one_draw(family):
    def posterior(x):
        return dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1)

    pair, x = Linear(posterior, WITHOUT_MEAN[family]), torch.ones(3, 2)
    with pytest.warns(UserWarning, match=rf"'x' \({family}\) of Linear has no mean"):
        images = generation.reconstruct(pair, x)
    with nothing_changes(pair), pytest.warns(UserWarning, match="has no mean"):
        assert torch.equal(images, generation.reconstruct(pair, x))
    assert images.isfinite().all()


def test_draws_of_cauchy_data_have_its_quartiles():
    """x - z of x ~ Cauchy(z, 1) has quartiles -1 and 1."""
    pair = Linear(cauchy, lambda z: dist.Cauchy(z, 1.0))
    with pytest.warns(UserWarning, match="has no mean"):
        x = generation.sample_images(pair, 3000) - generation.draw_latents(pair, 3000)["z"]
    for quartile, share in ((-1.0, 0.25), (0.0, 0.5), (1.0, 0.75)):
        assert ((x < quartile).double().mean(0) - share).abs().max() < 4 * 0.5 / 3000**0.5


def test_only_latents_that_hang_on_one_without_a_mean_are_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            c = pyro.sample("c", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(a + b + c, 1.0), obs=x.squeeze(-1))

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Cauchy(x.squeeze(-1), 1.0))
            pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("c", dist.Normal(2 * x.squeeze(-1), 1.0))

    pair, x = Pair(model, guide), torch.ones(2, 1)
    with pytest.raises(InputError, match=r"'a' \(Cauchy\), on which 'b' depends, has no mean"):
        generation.latent_means(pair, x, "b")
    with warnings.catch_warnings():  # 'a' is not asked for, nor does 'c' depend on it
        warnings.simplefilter("error")
        assert generation.latent_means(pair, x, "c").tolist() == [2.0, 2.0]


def test_means_exist_where_they_do():
    torch.manual_seed(1)
    normal, zeros = dist.Normal(torch.zeros(4), 1.0), torch.zeros(4)
    cases = {  # noise, transform, mean, standard deviation
        "logistic": (dist.Uniform(zeros, 1.0), SigmoidTransform().inv, 0.0, 1.82),
        "bounded": (dist.Cauchy(zeros, 1.0), SigmoidTransform(), 0.5, 0.36),
        "lognormal": (normal, ExpTransform(), math.exp(0.5), 2.17),
    }
    for noise, transform, mean, deviation in cases.values():
        fn = TransformedDistribution(noise, [transform])
        assert ((mean_of(fn) - mean).abs() < 4 * deviation / MEAN_DRAWS**0.5).all()
    for fn in (
        TransformedDistribution(dist.Exponential(zeros + 1), [ExpTransform()]),  # Pareto with alpha = 1
        TransformedDistribution(normal, [ExpTransform(), ExpTransform()]),
        TransformedDistribution(dist.LogNormal(zeros, 1.0), [ExpTransform()]),
        TransformedDistribution(dist.StudentT(3.0, zeros, 1.0), [ExpTransform()]),
        dist.MixtureSameFamily(dist.Categorical(torch.ones(4, 2)), dist.Cauchy(torch.zeros(4, 2), 1.0)),
        dist.StudentT(torch.tensor([1.0, 3.0]), 0.0, 1.0),
        Pushforward(cauchy(torch.zeros(3, 2)), [dist.transforms.AffineTransform(1.0, 2.0)], "affine"),
    ):
        assert mean_of(fn) is None


def test_modules_in_lists_are_evaluated_and_random_numbers_outside_of_sites_have_a_seed():
    class Noisy(Linear):
        def __init__(self):
            super().__init__(None)
            self.parts = [nn.Linear(2, 2), nn.Dropout(0.5)]

        def guide(self, x):
            with pyro.plate("data", len(x)):
                h = self.parts[1](self.parts[0](x)) + 0.1 * torch.randn(2)
                pyro.sample("z", dist.Normal(h, 1.0).to_event(1))

    pair, x = Noisy(), torch.randn(5, 2)
    with nothing_changes(pair):
        means = generation.latent_means(pair, x)
        assert torch.equal(means, generation.latent_means(pair, x))
    noise = means - pair.parts[0](x).detach()
    torch.testing.assert_close(noise, noise[:1].expand(5, 2))
    assert pair.parts[1].training


def test_a_relaxed_class_is_averaged_and_one_that_is_rounded_is_at_its_mode():
    logits = torch.tensor([0.0, 2.0, -1.0])

    def pair_of(family):
        def model(x):
            with pyro.plate("data", len(x)):
                c = pyro.sample("c", family(torch.tensor(0.5), logits=torch.zeros(3)))
                pyro.sample("x", dist.Normal(c, 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("c", family(torch.tensor(0.5), logits=logits + 0 * x))

        return Pair(model, guide)

    x = torch.randn(4, 3)
    rounded = pair_of(dist.RelaxedOneHotCategoricalStraightThrough)
    assert generation.latent_codes(rounded, x)["c"].tolist() == [[0.0, 1.0, 0.0]] * 4
    relaxed = generation.latent_means(pair_of(dist.RelaxedOneHotCategorical), x)
    torch.testing.assert_close(relaxed.sum(-1), torch.ones(4))
    fn = dist.RelaxedOneHotCategorical(torch.tensor(0.5), logits=logits)
    mean = fn.sample((20_000,)).mean(0)
    assert ((relaxed - mean).abs() < 4 * 0.4 / MEAN_DRAWS**0.5).all()
