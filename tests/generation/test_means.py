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
from pyrovae.programs.distributions import MEAN_DRAWS, closed_mean, mean_of, mode_of

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


DISCRETE = {  # a family around log odds of the datum, and its most probable value
    "Bernoulli": (lambda x: dist.Bernoulli(logits=x).to_event(1), lambda x: (x > 0).float()),
    "Poisson": (lambda x: dist.Poisson(x.exp()).to_event(1), lambda x: x.exp().floor()),
    "Geometric": (lambda x: dist.Geometric(logits=x).to_event(1), torch.zeros_like),
    "OneHotCategoricalStraightThrough": (
        lambda x: dist.OneHotCategoricalStraightThrough(logits=x),
        lambda x: torch.eye(2)[x.argmax(-1)],
    ),
    "RelaxedBernoulliStraightThrough": (
        lambda x: dist.RelaxedBernoulliStraightThrough(torch.tensor(0.5), logits=x).to_event(1),
        lambda x: (x > 0).float(),
    ),
    "ZeroInflatedPoisson": (  # all probabilities of 0 are above 1/2
        lambda x: dist.ZeroInflatedPoisson(x.exp(), gate=torch.tensor(0.6)).to_event(1),
        torch.zeros_like,
    ),
}


@pytest.mark.parametrize("family", DISCRETE)
def test_discrete_latents_are_at_their_mode_and_never_between(family):
    make, mode = DISCRETE[family]

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", make(torch.zeros(len(x), 2)))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + 10 * c, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", make(x))
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    pair, x = Pair(model, guide), torch.tensor([[-1.0, 0.5], [2.0, -0.7]])
    assert torch.equal(generation.latent_codes(pair, x)["c"], mode(x))
    torch.testing.assert_close(generation.reconstruct(pair, x), x + 10 * mode(x))
    line = generation.interpolate(pair, x[:1], x[1:], 3)[0]
    torch.testing.assert_close(line[1], x.mean(0) + 10 * mode(x)[0])  # of the nearer end
    assert generation.code_site(pair) == "z"
    with pytest.raises(InputError, match=r"no continuous latent 'c'.*discrete ones are 'c': latent_codes"):
        generation.latent_means(pair, x, "c")
    images = generation.images_of(pair, {"c": mode(x), "z": x})  # the remedy
    torch.testing.assert_close(images, x + 10 * mode(x))


def test_a_count_without_a_formula_for_its_mode_is_the_best_of_many_draws():
    """Of 100 draws some are (2, 0) and (0, 2), which have probability 0.64 and 0.81."""
    fn = dist.Multinomial(2, torch.tensor([[0.8, 0.2], [0.1, 0.9]]))
    assert mode_of(fn).tolist() == [[2.0, 0.0], [0.0, 2.0]]


def with_averages(x):
    """Distributions without a mean in closed form, made of normal, uniform and gamma noise."""
    normal, uniform = dist.Normal(x, 1.0), dist.Uniform(x, x + 1)
    noises = (normal, uniform, dist.Gamma(x.exp(), 1.0), dist.Laplace(x, 1.0), dist.Exponential(x.exp()))
    parts = [dist.TransformedDistribution(noise, [SigmoidTransform()]).to_event(1) for noise in noises]
    correlated = dist.MultivariateNormal(x, torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    parts.append(dist.TransformedDistribution(correlated, [dist.transforms.SoftplusTransform()]))
    return [*parts, dist.RelaxedOneHotCategorical(torch.tensor(0.5), logits=x)]


def test_an_averaged_mean_does_not_depend_on_the_rest_of_the_batch():
    x = torch.randn(40, 2)
    together, places = [mean_of(fn) for fn in with_averages(x)], torch.tensor([7, 3, 30])
    for rows in (places, places[:1], torch.arange(40).flip(0)):
        for mean, fn in zip(together, with_averages(x[rows]), strict=True):
            torch.testing.assert_close(mean_of(fn), mean[rows], rtol=0, atol=1e-5)
    for mean, fn in zip(together, with_averages(x), strict=True):
        draws = fn.sample((2000,))
        error = draws.std(0) * math.sqrt(1 / MEAN_DRAWS + 1 / 2000)
        assert ((mean - draws.mean(0)).abs() < 5 * error + 1e-5).all()


def test_means_and_images_of_a_datum_are_the_same_alone_and_among_others(binary_images):
    vae = with_flow(FLOWS["iaf"]())
    x = binary_images[:4].repeat(300, 1, 1, 1)  # more than pass through a program at a time
    means = generation.latent_means(vae, x)
    torch.testing.assert_close(means, means[:4].repeat(300, 1))
    torch.testing.assert_close(generation.latent_means(vae, x[2:3]), means[2:3])
    images = generation.reconstruct(vae, x[:4])
    torch.testing.assert_close(generation.reconstruct(vae, x[2:3]), images[2:3])


def test_an_affine_transform_has_the_transform_of_the_mean():
    x = torch.randn(5, 2)
    affine, transforms = dist.transforms.AffineTransform, dist.transforms
    matrix = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    triangular = transforms.LowerCholeskyAffine(torch.ones(2), matrix)
    swapped = transforms.Permute(torch.tensor([1, 0]))
    normal, doubled = dist.Normal(x, 1.0), [affine(1.0, 2.0)]
    rotated = (1 + x @ matrix.T).flip(-1)
    cases = [
        (dist.TransformedDistribution(normal, [affine(1.0, 2.0), affine(x, -1.0)]), x - (1 + 2 * x)),
        (
            dist.TransformedDistribution(normal, [transforms.ComposeTransform([affine(1.0, 2.0)])]),
            1 + 2 * x,
        ),
        (
            dist.TransformedDistribution(normal.to_event(1), [triangular, swapped]),
            rotated,
        ),
        (dist.TransformedDistribution(dist.Gamma(x.exp(), 2.0), [affine(0.0, 3.0)]), 1.5 * x.exp()),
        (dist.TransformedDistribution(normal, doubled).to_event(1).mask(False), 1 + 2 * x),
    ]
    state = torch.get_rng_state()
    for fn, mean in cases:
        torch.testing.assert_close(mean_of(fn), mean)
    assert torch.equal(torch.get_rng_state(), state)
    assert closed_mean(dist.TransformedDistribution(normal, [SigmoidTransform()])) is None
    assert mean_of(dist.TransformedDistribution(dist.Cauchy(x, 1.0), doubled)) is None


def test_reflections_have_the_reflected_mean(binary_images):
    vae = with_flow(Householder(2, steps=1))
    q = vae.posterior(binary_images[:4])
    v = vae.posterior.context(vae.posterior.network(binary_images[:4]))
    v = v / v.norm(dim=-1, keepdim=True)
    expected = q.base.mean - 2 * v * (v * q.base.mean).sum(-1, keepdim=True)
    torch.testing.assert_close(generation.latent_means(vae, binary_images[:4]), expected.detach())
